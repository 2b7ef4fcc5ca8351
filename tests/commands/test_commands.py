"""The list of commands, their help, and what they pass on."""

import subprocess
import sys

import pytest

from invad_med import bundle
from invad_med.__main__ import COMMANDS, main
from invad_med.commands import curve
from tests.conftest import REPOSITORY, environment, save


def test_the_list_is_there_at_once():
    code = "import sys; from invad_med.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'monai', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert all(f"  {name} " in done.stdout and text in done.stdout for name, text in COMMANDS.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"usage: python -m invad_med {command}" in said and f"\n  python -m invad_med {command} " in said


def test_every_module_of_commands_is_listed():
    modules = {path.stem for path in (REPOSITORY / "invad_med" / "commands").glob("*.py")}
    parts = {"__init__", "arguments", "ablation_tasks"}  # of commands
    assert {name.replace("-", "_") for name in COMMANDS} == modules - parts


def test_an_interrupted_command_ends_in_one_word(capsys, monkeypatch, tmp_path):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(curve, "run", interrupted)
    assert main(["curve", str(tmp_path)]) == 130 and capsys.readouterr().err == "interrupted\n"


def test_a_missing_folder_is_one_line(capsys, tmp_path):
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("command", "option", "keys", "message"),
    [
        ("train-all", "--train", "--stps 500", "train.json has no key stps: did you mean --steps?"),
        ("train-all", "--evaluate", "--mlflow nope", "--mlflow is 'nope': a switch is true or false"),
        ("train-all", "--train", "--ckpt_path x.pt", "--ckpt_path is set by this command"),
        ("cross-fit", "--train", "--steps many", "--steps is 'many', which is no number"),
        ("cross-fit", "--train", "--fold 1/3", "--fold is set by this command"),
        (
            "train-all",
            "--train",
            "--inferrer#steps 5",
            "train.json has no key inferrer#steps: did you mean --inferer#steps",
        ),
        ("train-all", "--evaluate", "--datset::dataset_dir x", "no key datset#dataset_dir: did you mean --dataset#"),
        ("curve", "--train", "--train#trainr#device cpu", "train.json has no key train#trainr#device"),
        ("curve", "--train", "--preset small base", "'base' stands alone"),
        ("curve", "--train", "steps 500", "'steps' stands alone"),
        ("curve", "--train", "--preset 'small", "No closing quotation"),
    ],
)
def test_wrong_keys_are_refused_before_anything_is_trained(command, option, keys, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main([command, str(tmp_path), option, keys])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.fixture
def started(monkeypatch):
    """Command lines of the configurations that a command starts; each ends with status ``started.status``."""

    class Lines(list):
        status = 0

    lines = Lines()

    def run(command, check, stdout):
        lines.append(command)
        return subprocess.CompletedProcess(command, lines.status)

    monkeypatch.setattr(bundle.subprocess, "run", run)
    return lines


def test_words_with_spaces_and_odd_folders_are_passed_on_whole(tmp_path, started, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "$x" / "brain" / "train" / "good" / "0.png", 0)
    assert main(["train-all", "$x", "--output_dir=-o#1", "--train", "--backbone 'a b' --preset=c"]) == 0
    train, evaluate = started
    assert train[-3:] == ["--backbone", "a b", "--preset=c"] and "--ckpt_path=./-o#1/models/brain.pt" in train
    assert "--dataset_dir=./$x/brain" in train and "--dataset_dir=./$x" in evaluate
    assert evaluate[-2:] == ["--baselines", "True"]
    started.clear()
    started.status = 1
    assert main(["cross-fit", "$x/brain", "--folds", "2", "--train", "--cache_dir 'my cache'"]) == 1
    assert started[0][-2:] == ["--cache_dir", "my cache"] and "--ckpt_path=output/cross_fit/whole.pt" in started[0]


def test_a_model_of_no_known_training_is_refused_and_the_same_words_are_not_tried_twice(tmp_path, started, capsys):
    save(tmp_path / "root" / "brain" / "train" / "good" / "0.png", 0)
    save(tmp_path / "root" / "chest" / "train" / "good" / "0.png", 0)
    model = tmp_path / "out" / "models" / "brain.pt"
    model.parent.mkdir(parents=True)
    model.touch()
    command = ["train-all", str(tmp_path / "root"), "--output_dir", str(tmp_path / "out"), "--train", "--steps 7"]
    assert main(command) == 3
    (line,) = started
    assert f"--ckpt_path={model.parent / 'chest.pt'}" in line  # and no evaluation
    said = capsys.readouterr().err
    assert f"brain was not trained: {model} is there, and {tmp_path / 'out/train/brain'} does not hold" in said
    assert "nothing was evaluated: the models of brain" in said and '--train "--resume False"' in said
    started.clear()
    started.status = 2
    assert main(command) == 2 and len(started) == 1  # the same words are as wrong for the next one


def test_a_curve_reads_its_keys_as_the_configuration_does(tmp_path, monkeypatch, capsys):
    calls = []

    def learning_curve(dataset_dir, points, cache_dir, ckpt_path, **overrides):
        calls.append(overrides)
        return {
            "dataset": "brain",
            "train_images": 1,
            "curve": [],
            "selected": {"test_auroc": 1, "step": 1},
            "seconds": 1,
        }

    monkeypatch.setattr(curve, "learning_curve", learning_curve)
    keys = "--denoiser#depth 1 --augment no --backbone 'a#b c' --batch_size=4 --compiled --noresume"
    assert main(["curve", str(tmp_path), "--train", keys]) == 0
    whole, tenth = calls
    assert whole == {
        "denoiser::depth": 1, "augment": False, "backbone": "a#b c", "batch_size": 4, "compiled": True, "resume": False,
        "modality": None, "steps": 500, "seed": 0, "train_fraction": 1.0,
    }  # fmt: skip
    assert tenth == whole | {"train_fraction": 0.1}
