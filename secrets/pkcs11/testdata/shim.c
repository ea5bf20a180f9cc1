/* A PKCS#11 module in front of SoftHSM, for tests. The file beside it, with .state
 * behind its name, says what is wrong with the token: locked, gone or hangs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long rv;

/* PKCS#11 2.40: a version, then the functions in the order of the standard. */
enum { OPEN_SESSION = 12, LOGIN = 18, FUNCTIONS = 68 };
struct list {
	unsigned char version[2];
	void *function[FUNCTIONS];
};

static struct list ours;
static rv (*open_session)(rv, rv, void *, void *, void *);
static rv (*login)(rv, rv, void *, rv);

static int is(const char *want)
{
	Dl_info self;
	char path[4096], state[16] = "";
	if (!dladdr(&ours, &self))
		return 0;
	snprintf(path, sizeof path, "%s.state", self.dli_fname);
	FILE *f = fopen(path, "r");
	if (!f)
		return 0;
	if (!fgets(state, sizeof state, f))
		state[0] = 0;
	fclose(f);
	return !strcmp(state, want);
}

static rv shim_open_session(rv slot, rv flags, void *application, void *notify, void *session)
{
	while (is("hangs"))
		pause();
	if (is("gone"))
		return 0x32; /* CKR_DEVICE_REMOVED */
	return open_session(slot, flags, application, notify, session);
}

static rv shim_login(rv session, rv user, void *pin, rv length)
{
	if (is("locked"))
		return 0xA4; /* CKR_PIN_LOCKED */
	return login(session, user, pin, length);
}

rv C_GetFunctionList(struct list **out)
{
	struct list *theirs;
	void *library = dlopen(SOFTHSM, RTLD_NOW);
	rv (*get)(struct list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
	if (!get || get(&theirs))
		return 5; /* CKR_GENERAL_ERROR */
	ours = *theirs;
	open_session = ours.function[OPEN_SESSION];
	login = ours.function[LOGIN];
	ours.function[OPEN_SESSION] = shim_open_session;
	ours.function[LOGIN] = shim_login;
	*out = &ours;
	return 0;
}
