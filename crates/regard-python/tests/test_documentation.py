"""What the documentation and the stubs say is so."""

import ast
import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import regard
from regard import _regard


def documented():
    """Everything public with its documentation."""
    for name in ("regard", "regard.torch", "regard.transformers", "regard.layers"):
        module = importlib.import_module(name)
        yield name, module
        for public in module.__all__:
            item = getattr(module, public)
            if inspect.ismodule(item) or public.startswith("__"):
                continue
            yield f"{name}.{public}", item
            if inspect.isclass(item):
                for member, value in vars(item).items():
                    if not member.startswith("_"):
                        yield f"{name}.{public}.{member}", value


@pytest.mark.parametrize(("name", "item"), [pytest.param(*both, id=both[0]) for both in documented()])
def test_documentation_is_there_and_right(name, item):
    assert inspect.getdoc(item), f"{name} says nothing of itself"
    import torch

    torch.manual_seed(0)
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(item), {}, name, None, None)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.DocTestRunner(optionflags=flags).run(test)
    assert result.failed == 0


def parameters_of_stub(node):
    """The names of a stub's parameters, without what it is bound to; of ``*names`` and ``**names`` too."""
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    names += [arguments.vararg.arg] if arguments.vararg else []
    names += [a.arg for a in arguments.kwonlyargs]
    names += [arguments.kwarg.arg] if arguments.kwarg else []
    return [name for name in names if name not in ("self", "cls")]


def parameters(item):
    return [name for name in inspect.signature(item).parameters if name != "self"]


def defaults_of_stub(name, body):
    """What the stubs of a function say its parameters are unless given, each in one of them at least."""
    said = {}
    for node in body:
        if not isinstance(node, ast.FunctionDef) or node.name != name:
            continue
        arguments, count = node.args, len(node.args.defaults)
        given = [*zip([*arguments.posonlyargs, *arguments.args][-count:], arguments.defaults, strict=True)] if count else []
        given += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        for argument, default in given:
            if default is not None:
                value = ast.literal_eval(default)
                assert said.setdefault(argument.arg, value) == value, f"{name}.{argument.arg}"
    return said


def defaults(item):
    each = inspect.signature(item).parameters.values()
    return {p.name: p.default for p in each if p.default is not inspect.Parameter.empty}


def is_property(node):
    return any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list)


@pytest.mark.parametrize(("stubs", "module"), [("_regard.pyi", _regard), ("layers.pyi", regard.layers)])
def test_the_stubs_say_what_there_is(stubs, module):
    """Each function and class of the stubs is there with these parameters and defaults, and nothing else is."""
    tree = ast.parse((Path(regard.__file__).parent / stubs).read_text())
    nodes = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    public = {name for name in module.__all__ if not name.startswith("_")}
    assert public == {name for name in nodes if not name.startswith("_")}

    for name, node in nodes.items():
        if name.startswith("_"):
            continue
        item = getattr(module, name)
        if isinstance(node, ast.FunctionDef):
            assert parameters_of_stub(node) == parameters(item), name
            assert defaults_of_stub(name, tree.body) == defaults(item), name
            continue
        assert [base.id for base in node.bases if isinstance(base, ast.Name)] in ([item.__base__.__name__], []), name
        methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        members = {n.name for n in methods} | {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
        assert {m for m in vars(item) if not m.startswith("_")} == {m for m in members if not m.startswith("_")}, name
        for method in methods:
            if method.name == "__new__":
                assert parameters_of_stub(method) == parameters(item), name
                assert defaults_of_stub(method.name, node.body) == defaults(item), name
            elif not method.name.startswith("__") and not is_property(method):
                is_there = getattr(item, method.name)
                assert parameters_of_stub(method) == parameters(is_there), f"{name}.{method.name}"
                assert defaults_of_stub(method.name, node.body) == defaults(is_there), f"{name}.{method.name}"


def test_a_type_checker_finds_nothing(tmp_path):
    """What is marked in the program as wrong has to be found, too."""
    pytest.importorskip("mypy")
    program = Path(__file__).with_name("typed.py")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", f"--cache-dir={tmp_path}", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
