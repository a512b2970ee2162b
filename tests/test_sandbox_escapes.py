"""Scripts that try to get out of the sandbox, or at what is not theirs: each is refused, and by what is meant to."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from boxes import holds, needs_bubblewrap, reachable, run, running

from securexfer.opening import seccomp

pytestmark = needs_bubblewrap

COLUMN = ["x86_64", "aarch64"].index(platform.machine()) if platform.machine() in {"x86_64", "aarch64"} else 0
NUMBERS = {name: numbers[COLUMN] for name, numbers in seccomp.NUMBERS.items() if numbers[COLUMN] is not None}


# -- H-07: reading -------------------------------------------------------------------------------------------------


def test_H07_nothing_of_this_machine_is_there_to_be_read() -> None:
    with reachable() as directory:
        (directory / "secret").write_text("canary")
        (directory / "secret").chmod(0o644)
        box = holds(
            f"""
            print(sorted(os.listdir("/")))
            for path in ("/etc/shadow", "/etc/passwd", "/home", "/root", "/var", "/run", "/sys", "/work", "/opt",
                         "{directory}/secret", "/proc/1/root/etc/passwd", "/proc/1/cwd/../etc/passwd",
                         "/proc/self/root/etc/passwd", "/data/../etc/passwd"):
                print(told(os.stat, path))
            print(sorted(os.listdir("/dev")))
            """
        )
    first, *others, last = box.lines
    assert first == str(
        ["bin", "data", "dev", "lib", "lib64", "out", "proc", "script.py", "supervisor.py", "tmp", "usr"]
    )
    assert others == ["ENOENT"] * 14
    assert "sd" not in last
    for name in ("kmsg", "mem", "kvm", "fuse", "userfaultfd"):
        assert name not in last


def test_H07_no_descriptor_and_no_environment_but_what_is_meant_is_there() -> None:
    opened = os.open("/etc/passwd", os.O_RDONLY)  # one that whoever starts it might leave open to be inherited
    os.set_inheritable(opened, True)
    try:
        box = run(
            "import os; found = os.listdir('/proc/self/fd'); print(found[:3], len(found), dict(os.environ))",
            before=("env", "SECRET=canary", "PYTHONHASHSEED=0", "LD_PRELOAD="),
        )
    finally:
        os.close(opened)
    # The fourth is that of the directory itself.
    assert box.lines == ["['0', '1', '2'] 4 {'PATH': '/usr/bin', 'HOME': '/tmp', 'LANG': 'C.UTF-8'}"]


def test_H07_only_its_own_processes_are_to_be_seen_and_the_first_tells_nothing() -> None:
    box = holds(
        """
        print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) == [1, os.getpid()], os.getppid())
        said = open("/proc/1/environ", "rb").read() + open("/proc/1/cmdline", "rb").read()
        print(b"SECRET" in said, b"canary" in said)
        for name in sorted(os.listdir("/proc/1/fd"), key=int):
            target = os.readlink(f"/proc/1/fd/{name}")
            for flags in (os.O_RDONLY, os.O_WRONLY):
                if target.startswith("socket:"):
                    print(told(os.open, f"/proc/1/fd/{name}", flags))
                elif int(name) > 2 and "pidfd" not in target:  # of the script itself
                    print("another:", target)
        print(told(os.open, "/proc/1/mem", os.O_RDWR), told(os.open, "/proc/self/mem", os.O_RDWR))
        """,
        before=("env", "SECRET=canary"),
    )
    # A socket, unlike a pipe, is opened by nobody this way (ENXIO); the rest is what the script has itself.
    assert box.lines == ["True 1", "False False", "ENXIO", "ENXIO", "EROFS EROFS"], box


def test_H07_H10_who_is_who_and_what_rights_there_are() -> None:
    box = holds(
        """
        lines = (line.partition(":") for line in open("/proc/self/status"))
        status = {name: value.split() for name, _, value in lines}
        print(os.getresuid(), os.getresgid(), socket.gethostname())
        print([status[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")])
        print(told(os.setuid, 0), told(os.setgid, 0), told(os.setgroups, [0]), told(os.chroot, "/tmp"))
        """
    )
    assert box.lines == [
        "(65534, 65534, 65534) (65534, 65534, 65534) sandbox",
        str(["0" * 16] * 5 + ["1", "2"]),
        "EINVAL EINVAL EPERM EPERM",
    ]


# -- H-08: writing -------------------------------------------------------------------------------------------------


def test_H08_nothing_but_tmp_and_out_can_be_written_to() -> None:
    box = holds(
        """
        for path in ("/x", "/usr/x", "/usr/bin/x", "/lib/x", "/dev/x", "/dev/shm/x", "/proc/x", "/data/x"):
            print(path, told(open, path, "w"))
        for path in ("/script.py", "/supervisor.py", "/usr/bin/python3", "/proc/sys/kernel/hostname",
                     "/proc/self/oom_score_adj", "/proc/sys/vm/drop_caches"):
            print(path, told(open, path, "a"), told(os.chmod, path, 0o777), told(os.unlink, path))
        print(told(open, "/tmp/x", "w"), told(open, "/out/x", "w"), told(open, "/dev/null", "w"))
        print(told(os.rename, "/out", "/tmp/out"), told(os.rmdir, "/data"), told(os.symlink, "/", "/link"))
        """
    )
    said = dict(line.split(" ", 1) for line in box.lines[:-2])
    assert said.pop("/proc/x") in {"ENOENT", "EROFS"}
    for path in ("/x", "/usr/x", "/usr/bin/x", "/lib/x", "/dev/x", "/dev/shm/x", "/data/x"):
        assert said.pop(path) == "EROFS", path
    for path, answers in said.items():
        assert set(answers.split()) <= {"EROFS", "EACCES", "EPERM", "EBUSY"}, (path, answers)
        assert answers.split()[0] != "done"
    assert box.lines[-2] == "done done done"
    assert set(box.lines[-1].split()) <= {"EROFS", "EBUSY", "EXDEV"}


def test_H08_scripts_do_not_see_what_others_left() -> None:
    holds("open('/tmp/left', 'w'); open('/out/left', 'w')")
    assert holds("print(os.listdir('/tmp'), os.listdir('/out'))").lines == ["[] []"]


# -- H-09: the network ---------------------------------------------------------------------------------------------


@pytest.fixture
def listeners() -> object:
    """Listen here: TCP on loopback and on an abstract name, as other programs of this machine do."""
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0securexfer-test-{os.getpid()}")
        abstract.listen()
        yield tcp.getsockname()[1], abstract.getsockname()[1:].decode()


def test_H09_nothing_outside_can_be_reached(listeners: tuple[int, str]) -> None:
    port, name = listeners
    box = holds(
        f"""
        print(told(socket.create_connection, ("127.0.0.1", {port}), 5))
        print(told(socket.create_connection, ("::1", {port}), 5))
        print(told(socket.create_connection, ("192.0.2.1", 80), 5))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            print(told(udp.sendto, b"x", ("192.0.2.1", 53)))
        with socket.socket(socket.AF_UNIX) as stream:
            print(told(stream.connect, "\\0{name}"))
        try:
            socket.getaddrinfo("example.org", 80)
        except socket.gaierror:
            print("no such name")
        print([line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line])
        """
    )
    assert box.lines[0] == "ECONNREFUSED"
    assert box.lines[1] in {"ECONNREFUSED", "EADDRNOTAVAIL", "ENETUNREACH", "EAFNOSUPPORT"}
    assert box.lines[2:] == ["ENETUNREACH", "ENETUNREACH", "ECONNREFUSED", "no such name", "['lo']"]


def test_H09_a_server_in_there_is_reached_by_nobody_out_here() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    box: list[object] = []
    script = f"""
    import socket, time
    server = socket.create_server(("127.0.0.1", {port}))
    server.settimeout(1)
    try:
        server.accept()
        print("reached")
    except TimeoutError:
        print("alone")
    """
    thread = threading.Thread(target=lambda: box.append(run(script)))
    thread.start()
    while thread.is_alive():
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 1)
        thread.join(0.05)
    assert box[0].lines == ["alone"]


@pytest.mark.parametrize(
    "family", ["AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_BLUETOOTH", "AF_ALG", "AF_CAN", "AF_TIPC"]
)
def test_H09_other_families_of_sockets_are_refused(family: str) -> None:
    box = holds(
        f"""
        number = getattr(socket, "{family}", 39)
        print(told(socket.socket, number, socket.SOCK_RAW), told(socket.socket, number, socket.SOCK_DGRAM))
        print(told(syscall, {NUMBERS["socket"]}, number | 1 << 32, 3, 0))
        """
    )
    assert box.lines == ["EPERM EPERM", "EPERM"]


def test_H09_raw_sockets_and_protocols_that_load_modules_are_refused() -> None:
    box = holds(
        """
        for family in (socket.AF_INET, socket.AF_INET6):
            print(told(socket.socket, family, socket.SOCK_RAW, 1), told(socket.socket, family, socket.SOCK_STREAM, 132),
                  told(socket.socket, family, 6, 33), told(socket.socket, family, socket.SOCK_DGRAM, 115))
        """
    )
    assert box.lines == ["EPERM EPERM EPERM EPERM"] * 2


# -- H-10: privileges ----------------------------------------------------------------------------------------------


def test_H10_every_call_that_is_refused_is_refused_by_the_filter() -> None:
    """With arguments that the kernel would find wrong: its own answers would be others, for some of them at least."""
    wrong = {name: number for name, number in NUMBERS.items() if name in seccomp.NEVER}
    box = holds(
        f"""
        for name, number in {wrong}.items():
            print(name, told(syscall, number, *[2**64 - 1] * 6))
        print(told(syscall, {NUMBERS["clone3"]}, 0, 0), told(syscall, 500), told(syscall, 452, -100, 0, 0, 0))
        """
    )
    assert len(wrong) > 60
    assert box.lines[:-1] == [f"{name} EPERM" for name in wrong]
    assert box.lines[-1] == "ENOSYS ENOSYS ENOSYS"


def test_H10_namespaces_are_refused_in_each_way_to_ask_for_one() -> None:
    box = holds(
        f"""
        for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
            print(told(syscall, {NUMBERS["clone"]}, flag | 17, 0, 0, 0, 0), told(syscall, {NUMBERS["unshare"]}, flag))
        arguments = (ctypes.c_uint64 * 11)(0x10000000)
        print(told(syscall, {NUMBERS["clone3"]}, ctypes.addressof(arguments), 88))
        for program in ("unshare -Ur true", "mount -t tmpfs x /tmp", "bwrap --dev-bind / / true"):
            done = subprocess.run(program.split(), capture_output=True, text=True)
            print(done.returncode != 0, done.stderr.split(":")[0])
        """
    )
    assert box.lines[:7] == ["EPERM EPERM"] * 7
    assert box.lines[7] == "ENOSYS"
    assert box.lines[8:] == ["True unshare", "True mount", "True bwrap"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is a set of numbers of x86_64 alone")
def test_H10_calls_by_other_numbers_kill() -> None:
    """The process id by its x32 number, and by the entry for 32 bits (int 0x80), where 20 is what 39 is here."""
    for code in ("syscall(0x40000000 | 39)", "enter()"):
        box = run(
            f"""
            import ctypes, mmap
            libc = ctypes.CDLL(None, use_errno=True)
            def syscall(number):
                return libc.syscall(ctypes.c_long(number))
            def enter():
                page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
                page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20; int 0x80; ret
                address = ctypes.addressof(ctypes.c_char.from_buffer(page))
                return ctypes.CFUNCTYPE(ctypes.c_int)(address)()
            print("before", flush=True)
            print({code})
            """
        )
        assert (box.how, box.detail, box.output) == ("signal", "SIGSYS", b"before\n")


def test_H10_programs_with_the_setuid_bit_give_nothing() -> None:
    """With one of its own, as an account that was broken into might plant one in what is shown to a script."""
    with reachable() as directory:
        (directory / "id").write_bytes(Path("/usr/bin/id").read_bytes())
        (directory / "id").chmod(0o6755)
        box = holds("print(subprocess.check_output(['/data/id', '-u'], text=True).strip())", data=directory)
    assert box.lines == ["65534"]


def test_H10_terminals_cannot_be_typed_into() -> None:
    box = holds(
        """
        import fcntl
        ours, theirs = os.openpty()
        for request in (0x5412, 0x541C, 0x5423):
            print(told(fcntl.ioctl, theirs, request, b"x"))
        print(told(os.open, "/dev/tty", os.O_RDWR))
        """
    )
    assert box.lines == ["EPERM", "EPERM", "EPERM", "ENXIO"]


# -- the first process in there, and what it says ------------------------------------------------------------------


def test_who_watches_cannot_be_ended_stopped_or_slowed() -> None:
    box = holds(
        f"""
        import resource
        for number in range(1, 65):
            os.kill(1, number) if number not in (32, 33) else None
        time.sleep(0.2)
        print(open("/proc/1/stat").read().rpartition(") ")[2][0] in "SR")
        print(told(resource.prlimit, 1, resource.RLIMIT_CPU, (0, 0)), told(os.setpriority, 0, 1, 19))
        print(told(os.sched_setscheduler, 1, os.SCHED_IDLE, os.sched_param(0)))
        print(told(syscall, {NUMBERS["pidfd_getfd"]}, os.pidfd_open(1), 3, 0))
        open("/out/still", "w").write("here")
        """
    )
    assert box.lines == ["True", "EPERM EPERM", "EPERM", "EPERM"]
    assert box.results == {"still": b"here"}


def test_what_is_written_to_every_descriptor_of_it_says_nothing() -> None:
    """What the script can open of the first process's is its output; the stream of results is not among it."""
    said = (b"SXO1\x01" + bytes(4) + b"\x01\x00\x04" + bytes(7) + b"\x06evilfooled").hex()
    box = holds(
        f"""
        said = bytes.fromhex("{said}")
        for process in os.listdir("/proc"):
            if process.isdigit():
                for name in os.listdir(f"/proc/{{process}}/fd"):
                    try:
                        descriptor = os.open(f"/proc/{{process}}/fd/{{name}}", os.O_WRONLY)
                        os.write(descriptor, said)
                        os.close(descriptor)
                    except OSError as error:
                        pass
        for descriptor in range(3, 256):
            assert told(os.write, descriptor, said) == "EBADF"
        open("/out/honest", "w").write("x")
        """
    )
    assert box.results == {"honest": b"x"}
    assert box.detail == ""


def test_what_is_left_of_a_script_cannot_add_to_what_it_left() -> None:
    """All but the first process are ended before anything is looked at."""
    box = holds(
        """
        for _ in range(4):
            if os.fork() == 0:
                os.setsid()
                while True:
                    for number in range(50):
                        open(f"/out/{number}", "ab").write(b"x")
                        os.rename(f"/out/{number}", f"/out/{number + 50}")
        time.sleep(0.3)
        """
    )
    assert box.detail == ""
    assert 0 < len(box.results) <= 100


def test_output_after_the_end_is_nobodys() -> None:
    seconds = f"8640{os.getpid()}.5"
    box = holds(f"subprocess.Popen(['/usr/bin/sh', '-c', 'sleep {seconds}; echo late']); print('first')")
    assert box.lines == ["first"]
    assert running(seconds) == []


def test_memory_that_belongs_to_no_process_is_refused() -> None:
    box = holds(
        f"""
        print(told(os.memfd_create, "x"), told(open, "/dev/shm/x", "w"))
        print(told(syscall, {NUMBERS["shmget"]}, 0, 1 << 20, 0o1600), told(syscall, {NUMBERS["msgget"]}, 0, 0o1600))
        """
    )
    assert box.lines == ["EPERM EROFS", "EPERM EPERM"]


def test_the_text_of_the_script_is_what_was_verified_whatever_becomes_of_the_file() -> None:
    """It reads itself, and finds no way to the file that was given."""
    box = holds(
        """
        print(open("/script.py").read().startswith("\\nimport ctypes"), oct(os.stat("/script.py").st_mode & 0o7777))
        print(told(os.unlink, "/script.py"), told(open, "/proc/self/fd/3", "r+"))
        """
    )
    assert box.lines == ["True 0o444", "EROFS ENOENT"]


def test_a_child_that_takes_what_there_is_costs_its_parent_nothing() -> None:
    """What is run here is counted against the limits in there, not against other processes of the same user."""
    others = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    try:
        assert holds("print(len([subprocess.Popen(['sleep', '9']) for _ in range(25)]))").lines == ["25"]
    finally:
        for process in others:
            process.kill()
            process.wait()
