"""What the documentation and the stubs say is so."""

import ast
import doctest
import importlib
import inspect
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
                    if not member.startswith("_") and getattr(value, "__doc__", None):
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


def test_the_stubs_say_what_there_is():
    """Each function and class of the stubs is there with these parameters, and nothing else is."""
    tree = ast.parse((Path(regard.__file__).parent / "_regard.pyi").read_text())
    stubs = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    public = {name for name in dir(_regard) if not name.startswith("_")}
    assert public == {name for name in stubs if not name.startswith("_")}

    def parameters(node):
        arguments = node.args
        return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]

    for name, node in stubs.items():
        if name.startswith("_"):
            continue
        item = getattr(_regard, name)
        if isinstance(node, ast.FunctionDef):
            assert parameters(node) == list(inspect.signature(item).parameters), name
            continue
        members = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
        members |= {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
        assert {m for m in vars(item) if not m.startswith("_")} == {m for m in members if not m.startswith("_")}, name
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.decorator_list and not method.name.startswith("__"):
                has = [p for p in inspect.signature(getattr(item, method.name)).parameters if p != "self"]
                assert [p for p in parameters(method) if p != "self"] == has, f"{name}.{method.name}"
