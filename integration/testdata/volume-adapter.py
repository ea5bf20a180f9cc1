"""Runs `luksplug volume cmdline` for compare_vol.py of the conformance kit: luksplug's path is the argument."""
import os, re, subprocess, sys, tempfile

document = sys.stdin.read()
env = os.environ
cmd = [sys.argv[1], "--output", "json", "volume", "cmdline"]


def disk(text):
    # Parts of libvirt's tests that no document of a user has, and the target that each has.
    text = re.sub(r"(?s)<privateData>.*?</privateData>", "", text)
    return text.replace("</disk>", "<target dev='vdb' bus='virtio'/></disk>")


with tempfile.TemporaryDirectory() as td:
    if "<disk" in document:
        document = disk(document)
        cmd += ["--size", "8589934590", "--storage-size", "4294967296"]
        if env.get("ORACLE_BACKING"):
            path = os.path.join(td, "backing.xml")
            open(path, "w").write(disk(open(env["ORACLE_BACKING"]).read()))
            cmd += ["--backing", path]
    else:
        cmd += ["--passphrase-file", env["ORACLE_SECRETFILE"], "--pool-xml", env["ORACLE_POOL"]]
        if env.get("ORACLE_INPUTVOL"):
            cmd += ["--from", env["ORACLE_INPUTVOL"], "--from-pool-xml", env["ORACLE_INPUTPOOL"], "--from-passphrase-file", env["ORACLE_INPUTSECRETFILE"]]
        if "prealloc-metadata" in env.get("ORACLE_FLAGS", ""):
            cmd.append("--prealloc-metadata")
    sys.exit(subprocess.run(cmd + ["-"], input=document.encode()).returncode)
