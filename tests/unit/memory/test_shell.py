"""The simulated shell runs the scripts that documentation puts into pods."""

import pytest

from vkprovider.backends.memory.process import FOREVER_S, Files, Process, Read, Signal, Sleep, Write
from vkprovider.backends.memory.programs import STANDARD_PROGRAMS
from vkprovider.backends.memory.shell_syntax import ShellSyntaxError, parse_script


def run(script, *, stdin=b"", env=None, args=(), files=None, main=False, tty=False, max_effects=10_000):
    """Run a script to its end: exit code, output, error output, seconds slept, signals sent."""
    process = Process(
        argv=("sh", "-c", script, *args) if script is not None else ("sh",),
        env=dict(env or {}),
        files=files or Files(),
        programs=STANDARD_PROGRAMS,
        hostname="pod-1",
        main=main,
        tty=tty,
    )
    program = STANDARD_PROGRAMS["sh"](process)
    outputs, slept, signals, value = {False: b"", True: b""}, 0.0, [], None
    for _ in range(max_effects):
        try:
            effect = program.send(value)
        except StopIteration as stop:
            return stop.value, outputs[False], outputs[True], slept, signals
        value = None
        match effect:
            case Write(data, stderr):
                outputs[stderr] += data
            case Sleep(seconds):
                if seconds == FOREVER_S:
                    program.close()
                    return None, outputs[False], outputs[True], slept, signals
                slept += seconds
            case Read(max_bytes):
                value, stdin = stdin[:max_bytes], stdin[max_bytes:]
            case Signal(number):
                signals.append(number)
    raise AssertionError("the script does not end")


@pytest.mark.parametrize(
    ("script", "code", "output"),
    [
        ("exit 3", 3, b""),
        ("exit 256", 0, b""),
        ("false", 1, b""),
        ("false; true", 0, b""),
        ("false || echo or; true && echo and", 0, b"or\nand\n"),
        ("false && echo no || echo yes", 0, b"yes\n"),
        ("! false && echo negated", 0, b"negated\n"),
        ("false; echo $?", 0, b"1\n"),
        ("(exit 4)", 4, b""),
        ("exit 1; echo never", 1, b""),
        ("echo -n a; echo b", 0, b"ab\n"),
        ("echo -e 'a\\tb'", 0, b"a\tb\n"),
        ("printf '%s-%s\\n' a b c d", 0, b"a-b\nc-d\n"),
        ("echo a # comment", 0, b"a\n"),
        ("echo a#b", 0, b"a#b\n"),
        ("echo one \\\n two", 0, b"one two\n"),
        ("a=1\nb=2; echo $a$b", 0, b"12\n"),
        ("{ echo a; echo b; }", 0, b"a\nb\n"),
        ("no-such-program", 127, b""),
        ("echo $(echo inner $(echo deep))", 0, b"inner deep\n"),
        ("i=0; while [ $i -lt 3 ]; do echo $i; i=$((i+1)); done", 0, b"0\n1\n2\n"),
        ("i=3; until [ $i -eq 0 ]; do i=$((i - 1)); done; echo $i", 0, b"0\n"),
        ("for x in a 'b c' d; do echo \"<$x>\"; done", 0, b"<a>\n<b c>\n<d>\n"),
        ("for i in 1 2 3 4; do [ $i = 2 ] && continue; [ $i = 4 ] && break; echo $i; done", 0, b"1\n3\n"),
        ("if [ -f /x ]; then echo yes; elif true; then echo maybe; else echo no; fi", 0, b"maybe\n"),
        ("if false; then echo yes; fi; echo $?", 0, b"0\n"),
        ("echo $((2 + 3 * 4)) $(( (2 + 3) * 4 )) $((7 / 2)) $((-7 % 3))", 0, b"14 20 3 -1\n"),
        ("hostname", 0, b"pod-1\n"),
        ("cd /etc; pwd", 0, b"/etc\n"),
        ("env A=1 printenv A", 0, b"1\n"),
        ("A=2 printenv A; echo ${A:-unset}", 0, b"2\nunset\n"),
        ("export A=3; printenv A", 0, b"3\n"),
        ("unset HOME; echo [$HOME]", 0, b"[]\n"),
        ("seq 3; seq 2 3; seq 5 -2 1", 0, b"1\n2\n3\n2\n3\n5\n3\n1\n"),
        ("test a = a && [ a != b ] && [ -z '' ] && [ -n x ] && [ ! -e /x ] && echo all", 0, b"all\n"),
        ("sh -c 'exit 9'; echo $?", 0, b"9\n"),
        ("exec echo replaced; echo never", 0, b"replaced\n"),
    ],
)
def test_script_gives_code_and_output(script, code, output):
    found = run(script)
    assert (found[0], found[1]) == (code, output)


@pytest.mark.parametrize(
    ("script", "output"),
    [
        ("echo $A", b"x y\n"),
        ('echo "$A"', b"x  y\n"),
        ("echo '$A'", b"$A\n"),
        ("echo \\$A", b"$A\n"),
        ("echo ${A}b", b"x yb\n"),
        ('echo "${B:-a b}|${A:-c}"', b"a b|x  y\n"),
        ("echo ${#A}", b"4\n"),
        ('echo "cost: 5$"', b"cost: 5$\n"),
        ('for w in $A; do echo "<$w>"; done', b"<x>\n<y>\n"),
        ('for w in "$A"; do echo "<$w>"; done', b"<x  y>\n"),
    ],
)
def test_variables_are_expanded_and_split_unless_quoted(script, output):
    assert run(script, env={"A": "x  y"})[1] == output


def test_arguments_are_numbered():
    assert run('echo $0 $1 $# "$@"', args=("name", "one", "two words"))[1] == b"name one 2 one two words\n"
    assert run('for a in "$@"; do echo "<$a>"; done', args=("name", "one", "two words"))[1] == b"<one>\n<two words>\n"


def test_outputs_are_redirected():
    files = Files()
    code, out, err, *_ = run(
        "echo a > /f; echo b >> /f; cat /f; echo c >&2; { echo d; echo e >&2; } > /g 2>&1", files=files
    )
    assert (code, out, err) == (0, b"a\nb\n", b"c\n")
    assert files.read("/g") == b"d\ne\n"
    assert run("cat /nowhere 2>/dev/null || echo missing")[1:3] == (b"missing\n", b"")


def test_input_is_redirected():
    files = Files()
    files.write("/in", b"text\n")
    assert run("cat < /in", files=files)[1] == b"text\n"
    code, _, err, *_ = run("cat < /nowhere", files=files)
    assert (code, err) == (1, b"sh: can't open /nowhere: No such file or directory\n")


def test_kubernetes_liveness_example_touches_and_removes_its_file():
    files = Files()
    code, _, _, slept, _ = run("touch /tmp/healthy; sleep 30; rm -f /tmp/healthy; sleep 600", files=files)
    assert (code, slept) == (0, 630.0)
    assert not files.exists("/tmp/healthy")


def test_kubernetes_counter_example_counts():
    with pytest.raises(AssertionError, match="does not end"):
        run('i=0; while true; do echo "$i: $(date)"; i=$((i+1)); sleep 1; done', max_effects=100)


def test_unknown_program_of_a_container_runs_until_stopped():
    assert run("nginx -g 'daemon off;'", main=True)[0] is None
    assert run("tail -f /dev/null", main=True)[0] is None


def test_kill_signals_the_first_process():
    assert run("kill 1")[4] == [15]
    assert run("kill -9 1; kill -HUP 1; kill -s INT 1")[4] == [9, 1, 2]
    assert run("kill 77")[0] == 1


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo a | cat", "pipes"),
        ("sleep 5 &", "background"),
        ("if true; then", "expected 'fi'"),
        ("echo 'open", "unterminated"),
        ("while true; do", "expected 'done'"),
        ("(echo a", "expected ')'"),
        ("done", "unexpected 'done'"),
        ("echo $(echo", "missing"),
        ("echo >", "expected a file name"),
        ("&& echo", "unexpected"),
    ],
)
def test_what_is_not_simulated_is_said(script, message):
    with pytest.raises(ShellSyntaxError, match=message.replace("(", r"\(").replace(")", r"\)")):
        parse_script(script)
    code, _, err, *_ = run(script)
    assert code == 2
    assert err.startswith(b"sh: ")
    assert message.encode() in err


def test_arithmetic_runs_no_code():
    code, _, err, *_ = run("echo $((__import__('os').getpid()))")
    assert code == 2
    assert b"arithmetic" in err


def test_commands_come_from_standard_input():
    code, out, err, *_ = run(None, stdin=b"echo a\nnope\necho $?\nexit 5\necho never\n")
    assert (code, out, err) == (5, b"a\n127\n", b"sh: nope: not found\n")


def test_terminal_gets_a_prompt():
    assert run(None, stdin=b"cd /tmp\n", tty=True)[1] == b"/ # /tmp # "


def test_shell_without_input_ends_well():
    assert run(None)[0] == 0
