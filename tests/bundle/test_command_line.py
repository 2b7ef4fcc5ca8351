"""The command line means what it says: folders, switches, keys, in all configurations."""

import json
import subprocess
import sys

import fire
import monai.bundle
import pytest

from invad_med.options import OptionError, literals, switch, words
from invad_med.options.check import check_parser
from invad_med.options.keys import nearest
from invad_med.options.kinds import KINDS, Kind
from invad_med.options.values import from_value, from_word
from tests.conftest import CONFIGS, REPOSITORY, environment, save

FILES = [path.name for path in CONFIGS.glob("*.json") if path.name != "metadata.json"]
SINGLE = ("inference.json", "train.json", "evaluate.json")
NAMES = (
    *(
        "study#1",
        "study #2",
        "a #",
        "#b",
        "./x#1",
        "sub/y#2",
        "1001",
        "2023_01_05",
        "1e5",
        "0x12",
        "None",
        "True",
        "null",
    ),
    *("a,b", "m#2.pt", "(a)", "[a]", "{a}", "{a: b}", "a b", " a", "1/5", "-1", "a@b", "a%b", "a::b", "a$"),
    *("it's", 'a"b', "'a' 'b'", "1+2", "b'a'", "1_0", "1j", "...", "é#ü", "a\\#b", "https://host/a#b", "#", "a\tb"),
)


def run_words(*arguments, config="inference.json", overlay=None):
    """Run a configuration in this process as the command line would, with steps that only collect what keys are."""
    files = [str(CONFIGS / name) for name in ((config,) if isinstance(config, str) else config)]
    files += [str(overlay)] if overlay else []
    command = ["run", "--config_file", repr(files), "--meta_file", str(CONFIGS / "metadata.json")]
    return fire.Fire({"run": monai.bundle.run}, command=[*command, *arguments])


@pytest.fixture
def seen(tmp_path):
    """An overlay whose run prints what keys are instead of scoring: give it the keys."""

    def overlay(*keys, **more):
        path = tmp_path / "overlay.json"
        values = ", ".join(f"'{key}': @{key.replace('#', '::')}" for key in keys)
        run = {"run": [f"$print('seen', json.dumps({{{values}}}))"], "+imports": ["$import json"], "finalize": []}
        path.write_text(json.dumps(run | more))
        return path

    return overlay


def said(capsys):
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seen ")]
    return json.loads(lines[-1].removeprefix("seen "))


@pytest.mark.filterwarnings("ignore:parsing config_file")
@pytest.mark.parametrize("config", SINGLE)
def test_every_path_and_name_arrives_as_it_was_typed(config, seen, capsys):
    own = json.loads((CONFIGS / config).read_text())
    keys = [key for key in own if KINDS.get(key) in (Kind.PATH, Kind.NAME) and key not in ("bundle_root", "device")]
    for name in NAMES:
        given = [word for key in keys for word in ((f"--{key}={name}",) if name[0] == "-" else (f"--{key}", name))]
        given += ["--mlflow", "false"] if "mlflow" in own else []  # a store of that name would be asked
        run_words(*given, config=config, overlay=seen(*keys))
        nothing = [key for key in keys if own[key] is None or key == "cache_dir"] if name in ("None", "null") else []
        assert said(capsys) == {key: None if key in nothing else name for key in keys}, name


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_forms_of_a_key_and_arguments_of_components(seen, capsys):
    overlay = seen("output_dir", "dicom_out", "anonymize", "deterministic_uids", "ckpt_path")
    run_words("-output_dir", "1001", "--output-dir='2#'", "--ckpt_path=a=b#1", "--anonymize", "--nodeterministic_uids",
              overlay=overlay)  # fmt: skip
    found = said(capsys)
    assert (found["output_dir"], found["ckpt_path"]) == ("2#", "a=b#1")
    assert (found["anonymize"], found["deterministic_uids"]) == (True, False)
    overlay.write_text(json.dumps({
        "run": ["$print('seen', json.dumps(@part, sort_keys=True))"],
        "finalize": [],
        "+imports": ["$import json"],
        "part": {"_target_": "builtins.dict", "models_dir": "x", "path": "y", "epochs": 3},
    }))  # fmt: skip
    run_words("--part#models_dir", "m#2", "--part::path", "1001", overlay=overlay)
    assert said(capsys) == {"models_dir": "m#2", "path": "1001", "epochs": 3}
    run_words("--part#epochs", "None", "--part#more", "None", overlay=overlay)  # MONAI drops what is given None
    assert said(capsys) == {"models_dir": "x", "more": None, "path": "y", "epochs": None}


@pytest.mark.parametrize(
    ("word", "value"),
    [("'1001'", "1001"), ('"1001"', "1001"), ("'study#1'", "study#1"), ("'None'", "None"), ("''a''", "''a''")],
)
def test_quotes_inside_quotes_are_taken_off(word, value):
    assert from_word("dataset_dir", word) == value == from_word("cache_dir", word, nothing=True)


def test_a_folder_in_quotes_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "'a'").mkdir()
    assert from_word("dataset_dir", "'a'") == "'a'"
    (tmp_path / "a").mkdir()
    with pytest.raises(OptionError, match=r"both exist; write \./'a' or \./a"):
        from_word("dataset_dir", "'a'")


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_a_folder_that_looks_like_syntax_is_found_by_its_name(tmp_path, monkeypatch, seen, capsys):
    monkeypatch.chdir(tmp_path)
    overlay = seen("dataset_dir", "output_dir")
    run_words("--dataset_dir", "@output_dir", "--output_dir", "x", overlay=overlay)
    assert said(capsys) == {"dataset_dir": "x", "output_dir": "x"}
    for name in ("@output_dir", "$x#1"):
        (tmp_path / name).mkdir()
        run_words("--dataset_dir", name, "--output_dir", "x", overlay=overlay)
        assert said(capsys) == {"dataset_dir": name, "output_dir": "x"}


def test_nothing_is_nothing_where_it_may_be():
    assert [from_word("modality", word, nothing=True) for word in ("null", "none", "None", "NULL")] == [None] * 4
    assert from_word("output_dir", "null") == "null" and from_word("dicom_out", "none", nothing=True) is None
    assert from_word("patience", "none", nothing=True) is None
    with pytest.raises(OptionError, match="--seed is 'none', which is no number"):
        from_word("seed", "none")


@pytest.mark.parametrize("key", [key for key, kind in KINDS.items() if kind is Kind.SWITCH])
def test_every_switch(key):
    for word in ("true", "True", "TRUE", "yes", "on", "1", "'true'", True):
        assert from_word(key, word) is True and from_value(key, word if word != "'true'" else 1) is True
    for word in ("false", "False", "FALSE", "no", "Off", "0", False):
        assert from_word(key, word) is False and from_value(key, word) is False
    for word in ("flase", "none", "2", "", "true#1", "[True]", "0.0"):
        with pytest.raises(OptionError, match=f"--{key} is .*: a switch is true or false"):
            from_word(key, word)
    for value in (None, 2, 0.0, [], "maybe"):
        with pytest.raises(OptionError, match=f"--{key} is "):
            switch(value, key)


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_switches_of_all_configurations_arrive(seen, capsys):
    for config in SINGLE:
        keys = [key for key in json.loads((CONFIGS / config).read_text()) if KINDS.get(key) is Kind.SWITCH]
        for word, value in (("off", False), ("YES", True)):
            given = [w for key in keys for w in (f"--{key}", word)]
            run_words(*given, config=config, overlay=seen(*keys))
            assert said(capsys) == dict.fromkeys(keys, value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datset_dir", "x"], "no key datset_dir: did you mean --dataset_dir?"),
        (["--datset_dir", "None"], "no key datset_dir: did you mean --dataset_dir?"),
        (["--false_positve_rate", "0.01"], "did you mean --false_positive_rate?"),
        (["--outdir=x"], "did you mean --output_dir?"),
        (["-Modality", "chest"], "did you mean --modality?"),
        (["--steps", "3"], "did you mean --inferer#steps?"),
        (["--inferer#stps", "None"], "no key inferer#stps: did you mean --inferer#steps?"),
        (["--zzz#a", "None"], "no key zzz#a"),
        (["--finalize#9", "None"], "no key finalize#9"),
        (["--inferer#stps", "3"], "no key inferer#stps: did you mean --inferer#steps?"),
        (["--models::modeldir", "x"], "did you mean --models#models_dir?"),
        (["--zzz", "x"], "no key zzz: It has --anonymize, --batch_size, "),
        (["--noanonymise"], "did you mean --anonymize?"),
        (["--dataset_dir", "--output_dir", "x"], "--dataset_dir needs a path"),
        (["--dataset_dir="], "--dataset_dir is empty"),
        (["--dataset_dir", "  "], "--dataset_dir is empty"),
        (["--output_dir", "-x"], "no key x"),
        (["--batch_size", "4#5"], "--batch_size 4#5: what follows # would be dropped"),
        (["--false_positive_rate", "0,05"], "--false_positive_rate is '0,05', which is no number"),
        (["--batch_size"], "--batch_size needs a number"),
        (["--anonymize", "nope"], "--anonymize is 'nope': a switch is true or false"),
        (["--dataset_dir", "my", "study"], "'study' stands alone"),
        (["--dataset_dir", "x", "-", "--output_dir", "y"], "a lone - ends the keys"),
        (["--dicom_out", "report#overlay"], "what follows # would be dropped"),
    ],
)
@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_what_cannot_be_meant_stops_with_a_sentence(arguments, message, seen, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_words(*arguments, overlay=seen("dataset_dir") if "stands alone" not in message else None)
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and "seen" not in captured.out
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert message in line


@pytest.mark.filterwarnings("ignore:parsing config_file")
@pytest.mark.parametrize("config", FILES)
def test_every_configuration_refuses_a_key_it_does_not_have(config, capsys, monkeypatch):
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(key, value)
    base = config.removeprefix("multi_gpu_")
    for wrong in ("datset_dir", "fully_shrded"):
        with pytest.raises(SystemExit):
            run_words(f"--{wrong}", "x", config=dict.fromkeys((base, config)))
        assert f"{base} has no key {wrong}" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_a_key_of_another_configuration_is_none_of_this_one(capsys):
    with pytest.raises(SystemExit):
        run_words("--fully_sharded", "true", config="train.json")  # of multi_gpu_train.json
    assert "train.json has no key fully_sharded" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_keys_of_other_files_are_known_where_something_uses_them(seen, capsys, tmp_path):
    overlay = seen("mine", mine="$@inner + 1", inner=2, _note_="free")
    run_words("--inner", "4", overlay=overlay)
    assert said(capsys) == {"mine": 5}
    overlay = seen(
        "preset", "batch_size", preset="$'m' + @letter", letter="x", batch_size="%sizes#small", sizes={"small": 2}
    )
    run_words("--preset", "cpu", overlay=overlay)  # which was all that used the letter
    assert said(capsys) == {"preset": "cpu", "batch_size": 2}
    with pytest.raises(SystemExit):
        run_words(overlay=seen("dataset_dir", datset_dir="x"))
    assert "did you mean --dataset_dir?" in capsys.readouterr().err
    defaults = tmp_path / "args.json"
    for wrong, message in (({"datset_dir": "x"}, "did you mean --dataset_dir"), ({"output_dir": 7}, 'quotes, "7"')):
        defaults.write_text(json.dumps(wrong))
        with pytest.raises(SystemExit):
            run_words("--args_file", str(defaults))
        assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_other_steps_of_ones_own_do_not_go_round_the_check(tmp_path, capsys):
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"initialize": ["$monai.utils.set_determinism(1)"]}))
    with pytest.raises(SystemExit):
        run_words("--datset_dir", "x", overlay=overlay)
    assert "did you mean --dataset_dir" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:parsing config_file")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"datset_dir": "x"}, "did you mean --dataset_dir"),
        ({"dataset_dir": 1001}, 'dataset_dir is 1001, not a path: write it in quotes, "1001"'),
        ({"dataset_dir": True}, "dataset_dir is True, not a path"),
        ({"dataset_dir": ("a", "b")}, "dataset_dir is ('a', 'b'), not a path"),
        ({"dataset_dir": "study#1"}, r"$'study\x231'"),
        ({"anonymize": "nope"}, "--anonymize is 'nope'"),
        ({"batch_size": "4"}, "--batch_size is '4', which is no number"),
    ],
)
def test_calls_from_python_raise_instead(given, message):
    with pytest.raises(RuntimeError) as raised:
        monai.bundle.run(config_file=str(CONFIGS / "inference.json"), **given)
    assert isinstance(raised.value.__cause__, OptionError) and message in str(raised.value.__cause__)


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_mlflow_of_monais_own_may_leave_its_run_without_a_name():
    parser = monai.bundle.ConfigParser(json.loads((CONFIGS / "inference.json").read_text()) | {"run_name": None})
    check_parser(parser, "inference.json", used=["run_name"])
    parser["run_name"] = 5
    with pytest.raises(OptionError, match="run_name is 5, not a name"):
        check_parser(parser, "inference.json", used=["run_name"])


def test_a_call_from_python_may_say_false(seen, capsys):
    overlay = seen("anonymize", "dataset_dir")
    files = [str(CONFIGS / "inference.json"), str(overlay)]
    monai.bundle.run(config_file=files, anonymize="false", **literals({"dataset_dir": "study#1"}))
    assert said(capsys) == {"anonymize": False, "dataset_dir": "study#1"}


def test_words_are_paired_as_fire_pairs_them():
    lines = (
        "--a 1 --b=2 -c 3 --d-e 4 --f --nog --h -5 --i=j=k -l=m --n a --n b --o#p 1 --q '' --noise",
        "one --a two three --b -0.5 -x",
    )
    for line in lines:
        command = [word.strip("'") for word in line.split()]
        fires = fire.Fire(lambda *args, **kwargs: dict(kwargs), command=command, serialize=lambda result: "")
        ours = words(command)
        assert [key.replace("::", "#") for key in ours] == list(fires)
        for key, word in ours.items():
            value = fires[key.replace("::", "#")]
            assert value is word if isinstance(word, bool) else str(value) == word


def test_every_key_says_what_it_takes():
    structure = {
        "bundle_root": Kind.PATH,
        "dataset_dir": Kind.PATH,
        "modality": Kind.NAME,
        "mlflow": Kind.SWITCH,
        "seed": Kind.NUMBER,
    }
    assert structure.items() <= KINDS.items()
    held = set()
    for file in FILES:
        for key, value in json.loads((CONFIGS / file).read_text()).items():
            if key.startswith(("_", "+")) or "#" in key:
                continue
            held.add(key)
            if isinstance(value, bool):
                assert KINDS.get(key) is Kind.SWITCH, f"{file}: say in KINDS that {key} is a switch"
            elif isinstance(value, int | float):
                assert KINDS.get(key) is Kind.NUMBER, f"{file}: say in KINDS that {key} is a number"
            elif not isinstance(value, dict | list) and not str(value).startswith("%"):
                assert key in KINDS, f"{file}: say in KINDS what {key} takes"
    assert set(KINDS) <= held, "KINDS holds keys that no configuration has"


def test_the_document_names_every_key():
    text = (REPOSITORY / "docs" / "command_line.md").read_text()
    for key, kind in KINDS.items():
        assert f"`{key}`" in text or kind in (Kind.NUMBER, Kind.PART), key


def test_the_nearest_key_is_one_that_exists():
    own = json.loads((CONFIGS / "train.json").read_text())
    near = {
        word: nearest(word, own) for word in ("learning-rate", "lr", "epochs", "batchsize", "presets", "optimizer::lrs")
    }
    assert (
        near["batchsize"] == "batch_size" and near["presets"] == "preset" and near["optimizer::lrs"] == "optimizer#lr"
    )
    assert near["lr"] == "optimizer#lr"


@pytest.mark.parametrize(
    "launcher", [(), pytest.param(("torch.distributed.run", "--standalone", "-m"), marks=pytest.mark.slow)]
)
def test_the_command_itself(launcher, tmp_path):
    for name in ("study", "study#1"):
        save(tmp_path / name / f"in {name}.png", 0)
    files = [str(CONFIGS / name) for name in ("inference.json", "multi_gpu_inference.json")[: 2 if launcher else 1]]
    command = [sys.executable, "-m", *launcher, "monai.bundle", "run", "--config_file", repr(files), "--dataset_dir"]
    command += ["study#1", "--output_dir", "2024_02_03", "--device", "cpu", "--modality", "phantom", "--gate", "no"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (table,) = (tmp_path / "2024_02_03").rglob("scores.csv")
    assert "\nin study#1,0,scored" in table.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"study", "study#1", "2024_02_03"}


def test_a_wrong_key_costs_one_line_and_status_2(tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIGS / "inference.json")]
    command += ["--datset_dir", "x", "--output_dir", "y"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not list(tmp_path.iterdir())
    assert done.stderr.splitlines()[-1] == "error: inference.json has no key datset_dir: did you mean --dataset_dir?"


SECRET = "S3cretPw"


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        ("inference.json", ["--dataset_dir", f"http://bob:{SECRET}@127.0.0.1:9/studies/1.2"]),
        ("inference.json", ["--dicom_destination", f"bob:{SECRET}@host/dicom-web"]),
        ("inference.json", ["--inputs#dataset_dir", f"http://bob:{SECRET}@host"]),
        ("inference.json", ["--results::destination", f"$'http://bob:{SECRET}@' + 'host'"]),
        ("inference.json", ["--dataset_dir", "x", f"http://{SECRET}@host/studies/1.2"]),
        ("inference.json", ["--anonymize", f"http://bob:{SECRET}@host"]),
        ("train.json", ["--dataset_dir", f"https://host/x?access_token={SECRET}"]),
        ("train.json", ["--output_dir", f"s3://bob:{SECRET}@host/x"]),
        ("evaluate.json", ["--tracking_uri", f"postgresql+psycopg2://bob:{SECRET}@host/mlflow"]),
        ("evaluate.json", ["--tracker#tracking_uri", f"http://bob:{SECRET}@host"]),
        ("evaluate.json", ["--args_file", "args.json"]),
    ],
)
@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_a_password_in_an_address_is_refused_and_not_quoted(config, arguments, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "args.json").write_text(json.dumps({"tracking_uri": f"http://bob:{SECRET}@host"}))
    with pytest.raises(SystemExit) as stopped:
        run_words(*arguments, config=config)
    said = capfd.readouterr()
    assert stopped.value.code == 2 and SECRET not in said.out + said.err
    assert "an address must hold no user and password" in said.err and "it was printed" not in said.err


def test_a_folder_that_looks_like_an_address_is_read(tmp_path, monkeypatch, seen, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12:30@home").mkdir()
    run_words("--dataset_dir", "12:30@home", "--output_dir", "a:b@c", overlay=seen("dataset_dir", "output_dir"))
    assert said(capsys) == {"dataset_dir": "12:30@home", "output_dir": "a:b@c"}


@pytest.mark.parametrize(
    ("config", "key"),
    [("inference.json", "dataset_dir"), ("train.json", "dataset_dir"), ("evaluate.json", "tracking_uri")],
)
def test_the_command_prints_a_password_nowhere(config, key, tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIGS / config)]
    command += [f"--{key}", f"http://bob:{SECRET}@127.0.0.1:9/studies/1.2", "--output_dir", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and SECRET not in done.stdout + done.stderr and not list(tmp_path.iterdir())
    assert done.stderr.splitlines()[-1].startswith(f"error: --{key}: an address must hold no user and password")


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_a_password_that_was_printed_is_said_to_be(tmp_path, capsys):
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"initialize": ["$monai.utils.set_determinism(1)"]}))
    with pytest.raises(SystemExit):
        run_words("--dataset_dir", f"http://bob:{SECRET}@127.0.0.1:9/studies/1.2", overlay=overlay)
    said = capsys.readouterr()
    assert SECRET not in said.err and "Change the password: it was printed" in said.err


@pytest.mark.parametrize("config", SINGLE)
@pytest.mark.parametrize(
    ("key", "meant"),
    [("--inferrer#steps", "inferer"), ("--inferrer::steps", "inferer"), ("--datsetdir#", "dataset_dir")],
)
@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_a_part_that_is_not_there_stops_the_run_with_the_nearest_one(config, key, meant, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError) as stopped:  # MONAI's own: nothing of a configuration is run before it
        run_words(key, "1", "--output_dir", "out", config=config)
    assert f"did you mean '{meant}'?" in str(stopped.value.__cause__) and not list(tmp_path.iterdir())
