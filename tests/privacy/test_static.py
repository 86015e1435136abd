"""What no file of ours may do: open a pickle, evaluate text, load YAML or models unsafely, start a shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "clinrep").rglob("*.py"), *ROOT.glob("0*.py"), *(ROOT / "benchmarks").glob("*.py")])
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "requests",
    "httpx",
    "urllib.request",
}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.unsafe_load",
    "yaml.full_load",
}
SAFE_LOADERS = {"_StrictLoader", "yaml.SafeLoader", "SafeLoader"}
# call -> the words it must be given
NEEDED = {
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "np.save": {"allow_pickle": False},
}


def find_faults(source: str) -> list[str]:
    """Return what is wrong in a module, as 'line: what'."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            faults += [f"{node.lineno}: imports {name}" for name in names if name in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            faults += [f"{node.lineno}: {fault}" for fault in check_call(node)]
    return faults


def check_call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: getattr(keyword.value, "value", "?") for keyword in node.keywords}
    faults = [name] if name in FORBIDDEN_CALLS else []
    faults += [f"{name} without {word}" for word, value in NEEDED.get(name, {}).items() if given.get(word) is not value]
    if name.endswith(".from_pretrained"):
        needed = {"local_files_only": True}
        if "Config" not in name:  # a config is JSON, a model may be a pickle
            needed["use_safetensors"] = True
        faults += [f"{name} without {word}" for word, value in needed.items() if given.get(word) is not value]
    if name in ("yaml.load", "yaml.load_all"):
        loaders = {ast.unparse(word) for word in [*node.args[1:], *(one.value for one in node.keywords)]}
        faults += [name] if not loaders & SAFE_LOADERS else []
    faults += ["trust_remote_code"] if "trust_remote_code" in given else []
    faults += ["push_to_hub"] if given.get("push_to_hub") else []
    return faults + (["shell=True"] if given.get("shell") else [])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe_is_called(path: Path):
    assert not find_faults(path.read_text())


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "eval('1')", "os.system('x')", "torch.load(p)",
        "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "np.load(p)", "yaml.load(t)",
        "yaml.load(t, yaml.Loader)", "yaml.unsafe_load(t)", "AutoModel.from_pretrained(d, local_files_only=True)",
        "Model.from_pretrained(d, local_files_only=True, use_safetensors=True, trust_remote_code=True)",
        "LlamaConfig.from_pretrained(d)", "subprocess.run(t, shell=True)", "TrainingArguments(push_to_hub=True)",
    ],
)  # fmt: skip
def test_each_fault_is_found(line: str):
    assert find_faults(line)
