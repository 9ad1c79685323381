"""fashion.py - Fashion-MNIST as Debian installs it, packed for a measurement; and a quick teacher for it."""
import subprocess
from pathlib import Path

DATA = "/usr/share/datasets/fashion-mnist"


def tool(program, *args):
    """Standard output of one of kd's programs."""
    return subprocess.run([str(a) for a in (program, "-q", *args)], stdout=subprocess.PIPE, check=True, text=True).stdout


def pack(bin_folder, folder, more="", instead={}):
    """FOLDER/f.kd; more: lines for the mapping data: of its YAML; instead: other files, by key ("train_label")."""
    store, yaml = Path(folder) / "f.kd", Path(folder) / "data.yaml"
    files = [(f"{split}_{key}", instead.get(f"{split}_{key}", f"{DATA}/{file}-{kind}-ubyte.gz")) 
             for split, file in (("train", "train"), ("test", "t10k"))
             for key, kind in (("input", "images-idx3"), ("label", "labels-idx1"))]
    yaml.write_text("data:\n" + "".join(f"  {key}: [{path}]\n" for key, path in files) +
                    f"  shape: [28, 28, 1]\n  classes: 10\n{more}")
    tool(bin_folder / "kd-dump", yaml, "-o", store)
    return store


def teach(bin_folder, folder, store):
    """Adds the logits of a small teacher of one epoch."""
    yaml = Path(folder) / "teacher.yaml"
    yaml.write_text("model: {arch: mlp, hidden: [64]}\nloss: {kd: 0, ce: 1}\ntrain: {epochs: 1, batch: 128, lr: 0.003}\n")
    tool(bin_folder / "kd-train", "-s", store, yaml, "-o", Path(folder) / "teacher")
    tool(bin_folder / "kd-dump", "--teacher", Path(folder) / "teacher", "--into", store)
