"""What a file weighs: nodes of its syntax tree, nodes a line, its longest functions and classes.

    python3 .ci/weigh.py nodejobs.py

Exit status 1 where one of them is over its budget: the script is compiled anew at every call, and people read it.
"""
import ast
import sys

MOST = {"nodes": 45350, "nodes a line": 7.5, "nodes of a function": 500, "lines of a function": 60,
        "lines of a class": 550}


def nodes(tree):
    return sum(1 for _ in ast.walk(tree))


def weigh(path):
    """Return {what: (figure, where)}, the same things as in MOST."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    tree = ast.parse(text)
    functions = [item for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)]
    classes = [item for item in ast.walk(tree) if isinstance(item, ast.ClassDef)]

    def lines(item):
        return item.end_lineno - item.lineno + 1
    return {"nodes": (nodes(tree), ""),
            "nodes a line": (nodes(tree) / text.count("\n"), ""),
            "nodes of a function": max((nodes(item), item.name) for item in functions),
            "lines of a function": max((lines(item), item.name) for item in functions),
            "lines of a class": max((lines(item), item.name) for item in classes)}


if __name__ == "__main__":
    figures = weigh(sys.argv[1])
    for what, (figure, where) in figures.items():
        print("%-20s %8.5g of %g  %s%s" % (what, figure, MOST[what], where, "" if figure <= MOST[what] else "  TOO MUCH"))
    sys.exit(any(figure > MOST[what] for what, (figure, _) in figures.items()))
