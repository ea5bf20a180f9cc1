/* A PKCS#11 module that wraps SoftHSM, for tests. The file with its name and the
 * suffix .state names the fault of the token: locked, gone or hangs.
 *
 * It refuses concurrent calls, as a module that is not thread-safe may. Copies of it,
 * which all call the one SoftHSM of the process, wait for each other: SoftHSM 2.6 is
 * not thread-safe, contrary to what it claims. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

typedef unsigned long rv;

/* PKCS#11 2.40: a version, then the functions in the order of the standard. */
enum { OPEN_SESSION = 12, LOGIN = 18, FUNCTIONS = 68 };
struct list {
	unsigned char version[2];
	void *function[FUNCTIONS];
};

static struct list ours, theirs;
static atomic_int inside;

/* wait_for_others takes the lock and returns its descriptor, to be closed after the call. */
static int wait_for_others(void)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/lock", getenv("LUKSPLUG_SOFTHSM_DIR"));
	int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0 || flock(lock, LOCK_EX))
		abort();
	return lock;
}

/* One wrapper for each function of SoftHSM, with as many arguments as any of them
 * has: all are as wide as a register. */
typedef rv (*any)(rv, rv, rv, rv, rv, rv, rv, rv);

static rv call(int n, rv a, rv b, rv c, rv d, rv e, rv f, rv g, rv h)
{
	int lock = wait_for_others();
	rv result = ((any)theirs.function[n])(a, b, c, d, e, f, g, h);
	close(lock);
	return result;
}

static rv before(int n);

#define ONE(n) \
	static rv call_##n(rv a, rv b, rv c, rv d, rv e, rv f, rv g, rv h) \
	{ \
		rv result = 0x80000001; /* vendor-defined: a concurrent call */ \
		if (atomic_fetch_add(&inside, 1) == 0) { \
			result = before(0##n - 0100); \
			if (!result) \
				result = call(0##n - 0100, a, b, c, d, e, f, g, h); \
		} \
		atomic_fetch_sub(&inside, 1); \
		return result; \
	}
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

/* before returns the result of a call by the state of the token; 0 to call SoftHSM. */
static rv before(int n)
{
	if (n == OPEN_SESSION) {
		while (is("hangs"))
			pause();
		if (is("gone"))
			return 0x32; /* CKR_DEVICE_REMOVED */
	}
	if (n == LOGIN && is("locked"))
		return 0xA4; /* CKR_PIN_LOCKED */
	return 0;
}

/* Numbers are octal, with 0100 added, so that each is one token of three digits. */
#define EIGHT(do, n) do(n##0) do(n##1) do(n##2) do(n##3) do(n##4) do(n##5) do(n##6) do(n##7)
#define ALL(do) \
	EIGHT(do, 10) EIGHT(do, 11) EIGHT(do, 12) EIGHT(do, 13) \
	EIGHT(do, 14) EIGHT(do, 15) EIGHT(do, 16) EIGHT(do, 17) \
	do(200) do(201) do(202) do(203)
ALL(ONE)
#define NAME(n) call_##n,

static void *const wrappers[FUNCTIONS] = { ALL(NAME) };

rv C_GetFunctionList(struct list **out)
{
	struct list *real;
	void *library = dlopen(SOFTHSM, RTLD_NOW);
	rv (*get)(struct list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
	if (!get || get(&real))
		return 5; /* CKR_GENERAL_ERROR */
	theirs = ours = *real;
	memcpy(ours.function, wrappers, sizeof wrappers);
	*out = &ours;
	return 0;
}
