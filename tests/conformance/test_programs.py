"""What programs that know of no emulation see of the emulated devices: nodes, attributes, descriptors, each other."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(emulate: Path, *program: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([emulate, *options, "--", *program], capture_output=True, text=True, timeout=60)


def run_python(emulate: Path, source: str, *options: str) -> str:
    """Run Python source under the emulation; what it prints."""
    done = run(emulate, sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(source), options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nodes_are_there(emulate: Path) -> None:
    output = run_python(
        emulate,
        """
        import glob, os, pathlib, stat
        nodes = ["/dev/dlb0", "/dev/dlb1", "/dev/dlb2"]
        assert sorted(glob.glob("/dev/dlb*")) == nodes
        assert sorted(e.path for e in os.scandir("/dev") if e.name.startswith("dlb")) == nodes
        assert [str(p) for p in sorted(pathlib.Path("/dev").glob("dlb[0-9]"))] == nodes
        for n, node in enumerate(nodes):
            for status in os.stat(node), os.lstat(node), os.stat("dlb%d" % n, dir_fd=os.open("/dev", os.O_RDONLY)):
                assert stat.S_ISCHR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600
                assert os.minor(status.st_rdev) == n
            assert os.access(node, os.R_OK | os.W_OK)
            assert os.path.realpath(node) == node
        assert not os.path.exists("/dev/dlb3") and not os.path.exists("/dev/dlb00")
        try:
            os.open("/dev/dlb0", os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError:
            print("fine")
        """,
        "--devices",
        "3",
    )
    assert output == "fine\n"


@pytest.mark.parametrize(("version", "identity"), [("2.0", "0x2710"), ("2.5", "0x2714")])
def test_attributes(emulate: Path, version: str, identity: str) -> None:
    run_python(
        emulate,
        f"""
        import glob, os
        assert sorted(os.listdir("/sys/class/dlb2")) == ["dlb0", "dlb1"]
        assert sorted(glob.glob("/sys/class/dlb2/dlb*")) == ["/sys/class/dlb2/dlb0", "/sys/class/dlb2/dlb1"]
        for n in 0, 1:
            base = "/sys/class/dlb2/dlb%d/" % n
            read = lambda name: open(base + name).read().strip()
            address = os.path.basename(os.path.realpath(base + "device"))
            assert address == "0000:6d:0%d.0" % n, address
            assert os.path.realpath(base + "device").startswith("/sys/devices/")
            status = os.stat("/dev/dlb%d" % n)
            assert read("dev") == "%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
            assert read("device/vendor") == "0x8086" and read("device/device") == "{identity}"
            assert read("device/dev_id") == str(n) and read("device/sriov_numvfs") == "0"
            assert read("device/total_resources/num_ldb_ports") == "64"
            assert read("device/avail_resources/num_sched_domains") == "32"
            assert len(os.listdir(base + "device/avail_resources")) == 15
        assert open("/sys/module/dlb2/version").read() == "8.8.0\\n"
        """,
        "--version",
        version,
        "--devices",
        "2",
    )


def test_attributes_are_written(emulate: Path) -> None:
    """By a descriptor, by a stream, and with the driver's answer where it refuses."""
    run_python(
        emulate,
        """
        import os
        base = "/sys/class/dlb2/dlb0/device/"
        with open(base + "cos_bw/cos2_bw_percent", "w") as stream:
            stream.write("10\\n")
        assert open(base + "cos_bw/cos2_bw_percent").read() == "10\\n"
        fd = os.open(base + "sequence_numbers/group1_sns_per_queue", os.O_WRONLY)
        assert os.write(fd, b"256") == 3
        assert open(base + "sequence_numbers/group1_sns_per_queue").read() == "256\\n"
        assert open(base + "total_resources/num_sn1_slots").read() == "4\\n"
        try:
            os.write(fd, b"100")
        except OSError as error:
            assert error.errno == 22
        else:
            raise AssertionError
        """,
    )


DIRECTORY_READERS = """
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <string.h>
static int ours(const struct dirent *entry) { return strncmp(entry->d_name, "dlb", 3) == 0; }
int main(void) {
  struct dirent **list, entry, *next;
  const int count = scandir("/dev", &list, ours, alphasort);
  for (int i = 0; i < count; i++) printf("%s ", list[i]->d_name);
  printf("%d ", scandir("/sys/class/dlb2", &list, ours, alphasort));
  DIR *folder = opendir("/dev");
  while (readdir_r(folder, &entry, &next) == 0 && next != NULL)
    if (ours(next)) printf("%s ", next->d_name);
  return closedir(folder);
}
"""


def test_other_readers_of_directories(emulate: Path, tmp_path: Path) -> None:
    (tmp_path / "readers.c").write_text(DIRECTORY_READERS)
    subprocess.run(["cc", "-w", "-o", tmp_path / "readers", tmp_path / "readers.c"], check=True)
    done = run(emulate, str(tmp_path / "readers"), options=("--devices", "2"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["dlb0", "dlb1", "2", "dlb0", "dlb1"]


def test_ordinary_tools(emulate: Path) -> None:
    listing = run(emulate, "ls", "-l", "/sys/class/dlb2", "/sys/bus/pci/devices/0000:6d:00.0/vendor")
    assert (listing.returncode, listing.stderr) == (0, "")
    assert "dlb0 -> ../../devices/pci" in listing.stdout
    done = run(emulate, "sh", "-c", "ls -l /dev/dlb0 && cat /sys/class/dlb2/dlb*/device/total_resources/num_dir_ports")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("crw-------")
    assert done.stdout.endswith("\n96\n")


def test_terminal_requests_do_nothing(emulate: Path) -> None:
    """Python's open() asks whether it has a terminal: with the driver itself that would make a domain."""
    run_python(
        emulate,
        """
        import os
        with open("/dev/dlb0", "rb", buffering=0) as device:
            assert not device.isatty()
        assert open("/sys/class/dlb2/dlb0/device/avail_resources/num_sched_domains").read() == "32\\n"
        """,
    )


def test_other_files_are_left_alone(emulate: Path, tmp_path: Path) -> None:
    run_python(
        emulate,
        f"""
        import mmap, os, socket
        path = {str(tmp_path / "dlb0")!r}
        with open(path, "w+b") as file:
            file.write(b"x" * 8192)
            file.flush()
            with mmap.mmap(file.fileno(), 4096) as memory:
                memory[0] = 65
        assert open(path, "rb").read(2) == b"Ax"
        a, b = socket.socketpair()
        a.send(b"hello")
        assert os.read(b.fileno(), 5) == b"hello"
        os.chdir(os.path.dirname(path))
        assert os.stat("dlb0").st_size == 8192
        """,
    )


def test_status_of_the_program(emulate: Path) -> None:
    assert run(emulate, "sh", "-c", "exit 7").returncode == 7
    assert run(emulate, "sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL
    assert run(emulate, "/nowhere/at/all").returncode == 127
    assert run(emulate, options=("--version", "3.0")).returncode == 2
    assert run(emulate, "true", options=("--devices", "0")).returncode == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--version", "3.0"), "--version is '3.0': it is 2.0 or 2.5"),
        (("--devices", "17"), "--devices is '17': it is a number from 1 to 16"),
        (("--devices", ""), "--devices is ''"),
        (("--port-probe", "x"), "--port-probe is 'x'"),
        (("--speed", "1"), "there is no option --speed"),
        (("--fault", "store:0:drop"), "no such fault: store:0:drop"),
        (("--fault", "after:-1:reset"), "no such fault: after:-1:reset"),
        (("--fault", "request:NOTHING:1:EINVAL"), "no such fault"),
        (("--fault", "request:START_DOMAIN:1:EINVAL:DOMAIN_STARTED!"), "no such fault"),
    ],
)
def test_options_that_make_no_sense(emulate: Path, options: tuple[str, ...], message: str) -> None:
    done = run(emulate, "true", options=options)
    assert done.returncode == 2
    assert message in done.stderr


def test_options_with_an_equals_sign(emulate: Path) -> None:
    done = run(emulate, "sh", "-c", "ls -d /dev/dlb*", options=("--version=2.0", "--devices=2"))
    assert done.stdout.split() == ["/dev/dlb0", "/dev/dlb1"]


@pytest.mark.parametrize("option", ["-static", "-static-pie", "-pie"])
def test_programs_that_cannot_see_the_device(emulate: Path, tmp_path: Path, option: str) -> None:
    """The launcher says so, and runs them all the same; and says nothing of others."""
    source = '#include <fcntl.h>\nint main(void) { return open("/dev/dlb0", O_RDWR) < 0; }\n'
    (tmp_path / "program.c").write_text(source)
    subprocess.run(["cc", option, "-fPIE", "-o", tmp_path / "program", tmp_path / "program.c"], check=True)
    (tmp_path / "script").write_text(f"#!{tmp_path}/program\n")
    (tmp_path / "script").chmod(0o755)
    for name in "program", "script":
        done = run(emulate, str(tmp_path / name))
        assert ("will not see the emulated devices: it is linked statically" in done.stderr) == (option != "-pie")
        assert done.returncode == (option != "-pie")


def test_nothing_is_left_behind(emulate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    listing = run(emulate, "ls", str(tmp_path))
    run(emulate, "sh", "-c", "kill -9 $$")
    assert listing.stdout.startswith("pdlb-emulated-")
    assert list(tmp_path.iterdir()) == []


def test_terminated_launcher_ends_its_program(emulate: Path) -> None:
    process = subprocess.Popen(
        [emulate, "--", sys.executable, "-c", "print('up', flush=True); import signal; signal.pause()"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM


def test_each_program_finds_a_fresh_device(emulate: Path) -> None:
    """While one of a device's users lives, the others see what it did; then the device is as new."""
    bandwidth = "/sys/class/dlb2/dlb0/device/cos_bw/cos0_bw_percent"
    write = f"open({bandwidth!r}, 'w').write('5')"
    show = f"import sys; sys.stdout.write(open({bandwidth!r}).read())"
    python = sys.executable
    script = f"""
        "{python}" -c "{write}"
        "{python}" -c "{show}"
        "{python}" -c "{write}
import subprocess
subprocess.run(['{python}', '-c', \\"\\"\\"{show}\\"\\"\\"], check=True)"
    """
    done = run(emulate, "sh", "-ec", textwrap.dedent(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["25", "5"]


def test_two_programs_share_a_device(emulate: Path) -> None:
    """Each has a domain of its own, and sees what the other took."""
    program = """
        import fcntl, os, struct, sys
        def ioctl(fd, request, size, *words):
            buffer = bytearray(struct.pack(f"<{len(words)}I", *words).ljust(size, bytes(1)))
            fcntl.ioctl(fd, request, buffer)
            return struct.unpack(f"<{size // 4}I", buffer)
        device = os.open("/dev/dlb0", os.O_RDWR)
        domain = ioctl(device, 0xC0686801, 104, 0, 0, 0, 0, 1, 1)
        print(domain[1], flush=True)
        sys.stdin.readline()
        print(ioctl(device, 0x80446802, 68)[2], flush=True)
        sys.stdin.readline()
    """
    driver = f"""
        import subprocess, sys
        source = {textwrap.dedent(program)!r}
        start = lambda: subprocess.Popen([sys.executable, "-c", source], stdin=-1, stdout=-1, text=True)
        programs = [start(), start()]
        ids = [int(p.stdout.readline()) for p in programs]
        assert sorted(ids) == [30, 31], ids
        for p in programs:
            p.stdin.write("\\n")
            p.stdin.flush()
        assert [int(p.stdout.readline()) for p in programs] == [30, 30]
        programs[0].kill()
        programs[0].wait()
        programs[1].communicate("\\n")
        for p in programs:
            p.stdin.close()
            p.stdout.close()
            p.wait()
    """
    run_python(emulate, driver)


def test_a_descriptor_survives_exec(emulate: Path) -> None:
    """The program that is started knows nothing of how the descriptor was made; the domain goes with the last one."""
    run_python(
        emulate,
        """
        import fcntl, os, struct, subprocess, sys
        device = os.open("/dev/dlb0", os.O_RDWR)
        buffer = bytearray(104)
        fcntl.ioctl(device, 0xC0686801, buffer)
        domain = struct.unpack_from("<I", buffer, 8)[0]
        assert os.readlink(f"/proc/self/fd/{domain}") == "anon_inode:[dlb2domain]"
        child = "import fcntl; buffer = bytearray(8); fcntl.ioctl(%d, 0x80086804, buffer)" % domain
        subprocess.run([sys.executable, "-c", child], pass_fds=[domain], check=True)
        try:
            fcntl.ioctl(domain, 0x80086804, bytearray(8))
        except OSError as error:
            assert error.errno == 22  # started already
        else:
            raise AssertionError
        available = "/sys/class/dlb2/dlb0/device/avail_resources/num_sched_domains"
        assert open(available).read() == "31\\n"
        os.close(domain)
        assert open(available).read() == "32\\n"
        """,
    )
