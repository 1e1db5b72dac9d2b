"""Every way a manifest can be wrong, and what is said about it."""

from pathlib import Path

import pytest
from unit.orchestrator.manifest.samples import METHODS, Loader, write_method

from longctx.orchestrator.errors import ManifestError
from longctx.orchestrator.manifest.problems import HINT

HEAD = "name: try\n"
MODELS = "models: [tiny]\n"
METHOD = "methods: [{method: full-kv}]\n"
EVALS = "evals: [{task: needle/default}]\n"
GOOD = HEAD + MODELS + METHOD + EVALS

BAD = {
    # keys and types
    "unknown key": (GOOD + "sed: 4\n", "m.yaml:5:1: sed: unknown key; allowed: name, description, models,", "did you mean 'seed'?"),
    "unknown nested key": (
        HEAD + MODELS + "methods:\n  - method: full-kv\n    labl: x\n" + EVALS,
        "m.yaml:5:5: methods[0].labl: unknown key; allowed: method, preset, params, environment, label",
        "did you mean 'label'?",
    ),
    "missing nested key": (
        HEAD + MODELS + "methods:\n  - label: x\n" + EVALS,
        "m.yaml:4:5: methods[0].method: is missing; allowed: a method's name, or the path of its folder",
        "",
    ),
    "unknown key of a resource": (
        GOOD + "resources:\n  gpu: 1\n",
        "m.yaml:6:3: resources.gpu: unknown key; allowed: device, gpus, threads,",
        "did you mean 'gpus'?",
    ),
    "unknown key of a model": (
        HEAD + "models: [{name: a, source: 'random:tiny-llama', dtyp: float32}]\n" + METHOD + EVALS,
        "m.yaml:2:49: models[0].dtyp: unknown key; allowed: name, source, dtype, window,",
        "did you mean 'dtype'?",
    ),
    "missing top key": (HEAD + MODELS + METHOD, "m.yaml:1:1: evals: is missing", ""),
    "a model that is a number": (
        HEAD + "models: [4]\n" + METHOD + EVALS,
        "m.yaml:2:10: models[0]: is a whole number; allowed: text or a mapping",
        "",
    ),
    "no list": (HEAD + "models: tiny\n" + METHOD + EVALS, "m.yaml:2:9: models: is text; allowed: a list", ""),
    "an empty list": (HEAD + "models: []\n" + METHOD + EVALS, "m.yaml:2:9: models: is empty; allowed: at least 1", ""),
    "nothing after a key": (HEAD + MODELS + METHOD + "evals:\n", "m.yaml:4:7: evals: is nothing (null); allowed: a list", ""),
    "a bad name": (
        "name: my run\n" + MODELS + METHOD + EVALS,
        "m.yaml:1:7: name: 'my run' has the wrong form; allowed: letters, digits",
        "",
    ),
    "a version as a number": (
        HEAD + MODELS + "methods: [{method: full-kv, environment: 4.40}]\n" + EVALS,
        "m.yaml:3:42: methods[0].environment: is a number; allowed: text",
        "",
    ),
    "an unknown choice": (
        GOOD + "engine: dokcer\n",
        "m.yaml:5:9: engine: 'dokcer' is not known; allowed: auto, docker, venv",
        "did you mean 'docker'?",
    ),
    "a negative seed": (GOOD + "seed: -1\n", "m.yaml:5:7: seed: -1 is out of range; allowed: at least 0", ""),
    "a seed in quotes": (GOOD + "seed: '7'\n", "m.yaml:5:7: seed: is text; allowed: a whole number", ""),
    "a fractional seed": (GOOD + "seed: 1.5\n", "m.yaml:5:7: seed: ", "allowed: a whole number"),
    "bad memory": (
        GOOD + "resources: {memory: lots}\n",
        "m.yaml:5:21: resources.memory: 'lots' has the wrong form; allowed: a number with k, m, g or t, such as 24g",
        "",
    ),
    "an unknown template form": (
        HEAD + MODELS + METHOD + "evals:\n  - task: needle/default\n    prompting: {template: 'my chat'}\n",
        "m.yaml:6:27: evals[0].prompting.template: 'my chat' is not known; allowed: none, chat, or letters, digits",
        "",
    ),
    "an unknown template": (
        HEAD + MODELS + METHOD + "evals:\n  - task: needle/default\n    prompting: {template: chatt}\n",
        "m.yaml:6:27: evals[0].prompting.template: no template is called 'chatt'; allowed: none, chat",
        "did you mean 'chat'?",
    ),
    "a key twice": (GOOD + "name: again\n", "m.yaml:5:1: the key 'name' stands twice, first at m.yaml:1:1", ""),
    # names
    "unknown model": (
        HEAD + "models:\n  - tinny\n" + METHOD + EVALS,
        "m.yaml:3:5: models[0]: no model is called 'tinny'; allowed: tiny, tiny-gemma",
        "did you mean 'tiny'?",
    ),
    "a source instead of a name": (
        HEAD + "models: ['hf:owner/model']\n" + METHOD + EVALS,
        "m.yaml:2:10: models[0]: 'hf:owner/model' is a source, not a name; allowed: {name: ",
        "",
    ),
    "unknown shape": (
        HEAD + "models: [{name: a, source: 'random:tiny-lama'}]\n" + METHOD + EVALS,
        "m.yaml:2:28: models[0].source: ",
        "did you mean random:tiny-llama?",
    ),
    "no such folder": (
        HEAD + "models: [{name: a, source: 'path:./weights'}]\n" + METHOD + EVALS,
        "m.yaml:2:28: models[0].source: ",
        "there is no ",
    ),
    "code of an unpinned model": (
        HEAD + "models: [{name: a, source: 'hf:owner/model@main', trust_remote_code: true}]\n" + METHOD + EVALS,
        "m.yaml:2:70: models[0].trust_remote_code: ",
        "needs a pinned revision",
    ),
    "a model twice": (
        HEAD + "models: [tiny, tiny]\n" + METHOD + EVALS,
        "m.yaml:2:16: models[1]: the model 'tiny' is selected twice, first at m.yaml:2:10",
        "",
    ),
    "unknown method": (
        HEAD + MODELS + "methods: [{method: full_kvs}]\n" + EVALS,
        "m.yaml:3:20: methods[0].method: no method is called 'full_kvs'; allowed: full-kv, quant, sinks",
        "did you mean 'full-kv'?",
    ),
    "no such method folder": (
        HEAD + MODELS + "methods: [{method: ./mine}]\n" + EVALS,
        "m.yaml:3:20: methods[0].method: there is no folder ",
        "allowed: a method's name, or the path",
    ),
    "unknown environment": (
        HEAD + MODELS + "methods: [{method: full-kv, environment: tf4.4}]\n" + EVALS,
        "m.yaml:3:42: methods[0].environment: full-kv has no environment 'tf4.4'; allowed: tf5, tf4.40",
        "did you mean 'tf4.40'?",
    ),
    "unknown task": (
        HEAD + MODELS + METHOD + "evals: [{task: needle/defautl}]\n",
        "m.yaml:4:16: evals[0].task: no task is called 'needle/defautl'; allowed: needle/default, needle/deep",
        "did you mean 'needle/default'?",
    ),
    "no task at all": (
        HEAD + MODELS + METHOD + "evals: [{task: needle}]\n",
        "m.yaml:4:16: evals[0].task: 'needle' has the wrong form; allowed: eval/task",
        "",
    ),
    # parameters
    "unknown parameter": (
        HEAD + MODELS + "methods: [{method: sinks, params: {kept: 0.5}}]\n" + EVALS,
        "m.yaml:3:36: methods[0].params.kept: unknown parameter of sinks; allowed: variant, keep, tokens, first, clone",
        "did you mean 'keep'?",
    ),
    "parameter of a method without any": (
        HEAD + MODELS + "methods: [{method: full-kv, params: {keep: 0.5}}]\n" + EVALS,
        "m.yaml:3:38: methods[0].params.keep: unknown parameter of full-kv; allowed: none: the method has no parameters",
        "",
    ),
    "parameter's type": (
        HEAD + MODELS + "methods: [{method: sinks, params: {first: 4.5}}]\n" + EVALS,
        "m.yaml:3:43: methods[0].params.first: 4.5 has the wrong type; allowed: a whole number at least 0",
        "",
    ),
    "a boolean is no number": (
        HEAD + MODELS + "methods: [{method: sinks, params: {first: yes}}]\n" + EVALS,
        "m.yaml:3:43: methods[0].params.first: True has the wrong type",
        "",
    ),
    "parameter's range, in a list": (
        HEAD + MODELS + "methods: [{method: sinks, params: {keep: [0.5, 2]}}]\n" + EVALS,
        "m.yaml:3:48: methods[0].params.keep[1]: 2 is out of range; allowed: a number at least 0.01 and at most 1",
        "",
    ),
    "parameter's choice": (
        HEAD + MODELS + "methods: [{method: sinks, params: {variant: prunned}}]\n" + EVALS,
        "m.yaml:3:45: methods[0].params.variant: 'prunned' is not known; allowed: pruned, windowed",
        "did you mean 'pruned'?",
    ),
    "excluded together": (
        HEAD + MODELS + "methods: [{method: sinks, params: {keep: 0.5, tokens: 64}}]\n" + EVALS,
        "m.yaml:3:47: methods[0].params.tokens: 'keep' and 'tokens' exclude each other; allowed: one of them",
        "",
    ),
    "excluded by the preset": (
        HEAD + MODELS + "methods: [{method: sinks, preset: half, params: {tokens: 64}}]\n" + EVALS,
        "m.yaml:3:50: methods[0].params.tokens: 'keep' and 'tokens' exclude each other",
        "",
    ),
    "required parameter": (
        HEAD + MODELS + "methods: [{method: quant}]\n" + EVALS,
        "m.yaml:3:20: methods[0].method: quant needs the parameter 'bits'; allowed: 2, 4",
        "",
    ),
    "unknown preset": (
        HEAD + MODELS + "methods: [{method: sinks, preset: halve}]\n" + EVALS,
        "m.yaml:3:35: methods[0].preset: sinks has no preset 'halve'; allowed: half",
        "did you mean 'half'?",
    ),
    "empty list of values": (
        HEAD + MODELS + "methods: [{method: sinks, params: {keep: []}}]\n" + EVALS,
        "m.yaml:3:42: methods[0].params.keep: an empty list makes no variant; allowed: at least one value",
        "",
    ),
    "a mapping as a value": (
        HEAD + MODELS + "methods: [{method: sinks, params: {keep: {a: 1}}}]\n" + EVALS,
        "m.yaml:3:42: methods[0].params.keep: is a mapping; allowed: true or false or",
        "",
    ),
    "an eval's unknown parameter": (
        HEAD + MODELS + METHOD + "evals: [{task: needle/default, params: {word: 50}}]\n",
        "m.yaml:4:41: evals[0].params.word: unknown parameter 'word'; allowed: words, style",
        "did you mean 'words'?",
    ),
    "an eval's parameter": (
        HEAD + MODELS + METHOD + "evals: [{task: needle/default, params: {words: 5}}]\n",
        "m.yaml:4:48: evals[0].params.words: 5 is not allowed; allowed: a whole number from 10 to 10,000",
        "",
    ),
    "an eval's choice": (
        HEAD + MODELS + METHOD + "evals: [{task: needle/default, params: {style: noize}}]\n",
        "m.yaml:4:48: evals[0].params.style: 'noize' is not known; allowed: noise, essay",
        "did you mean 'noise'?",
    ),
    "cut in the middle of what": (
        HEAD + MODELS + METHOD + "evals: [{task: needle/default, prompting: {truncate: middle}}]\n",
        "m.yaml:4:54: evals[0].prompting.truncate: 'middle' needs max_prompt_tokens, the length to cut to",
        "",
    ),
    "cut in the middle by default": (
        GOOD + "defaults:\n  prompting: {truncate: middle}\n",
        "m.yaml:6:25: defaults.prompting.truncate: 'middle' needs max_prompt_tokens",
        "",
    ),
    # the matrix
    "prompts that do not fit": (
        HEAD + "models: [tiny-gemma]\n" + METHOD + "evals: [{task: needle/default, params: {words: 500}}]\n",
        "m.yaml:4:9: evals[0]: prompts of at least 500 tokens and 20 new ones do not fit the 512 positions of tiny-gemma; allowed: shorter",
        "",
    ),
    "a variant twice": (
        HEAD + MODELS + "methods:\n  - method: sinks\n    preset: half\n  - {method: sinks, params: {keep: [0.3, 0.5]}}\n" + EVALS,
        "m.yaml:6:5: methods[1]: sinks{keep: 0.5} in tf5 is selected twice, first at m.yaml:4:5",
        "",
    ),
    "a value twice in a list": (
        HEAD + MODELS + "methods: [{method: sinks, params: {keep: [0.5, 0.5]}}]\n" + EVALS,
        "m.yaml:3:11: methods[0]: sinks{keep: 0.5} in tf5 is selected twice, first at m.yaml:3:11",
        "",
    ),
    "a label twice": (
        HEAD + MODELS + "methods: [{method: full-kv, label: x}, {method: sinks, label: x}]\n" + EVALS,
        "m.yaml:3:63: methods[1].label: 'x' is what the variant at m.yaml:3:11 is called; allowed: a label of its own",
        "",
    ),
    "a task twice": (
        HEAD + MODELS + METHOD + "evals:\n  - task: needle/default\n  - {task: needle/default, params: {words: 50}}\n",
        "m.yaml:6:5: evals[1]: needle/default is selected twice, first at m.yaml:5:5; allowed: a label of its own for each",
        "",
    ),
    "include matches nothing": (
        GOOD + "include: [{model: tinyy}]\n",
        "m.yaml:5:19: include[0].model: 'tinyy' matches nothing here; allowed: tiny",
        "did you mean 'tiny'?",
    ),
    "exclude matches nothing": (
        GOOD + "exclude:\n  - {method: 'sink*'}\n",
        "m.yaml:6:14: exclude[0].method: 'sink*' matches nothing here; allowed: full-kv",
        "",
    ),
    "exclude matches nothing together": (
        HEAD
        + MODELS
        + "methods: [{method: full-kv}, {method: sinks}, {method: full-kv, environment: tf4.40}]\n"
        + EVALS
        + "exclude: [{method: sinks, environment: tf4.40}]\n",
        "m.yaml:5:11: exclude[0]: no cell matches all of these patterns together",
        "",
    ),
    "a filter without patterns": (
        GOOD + "exclude: [{}]\n",
        "m.yaml:5:11: exclude[0]: a filter without patterns names nothing; allowed: model, method,",
        "",
    ),
    "nothing is left": (GOOD + "exclude: [{model: '*'}]\n", "m.yaml:5:1: exclude: no cell is left", ""),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_manifest_is_told_where_what_and_what_instead(case: str, load: Loader) -> None:
    text, start, end = BAD[case]
    with pytest.raises(ManifestError) as caught:
        load(text)
    folder = load.folder
    lines = [line.replace(f"{folder}/", "") for line in str(caught.value).splitlines()]
    assert len(lines) == 2, lines
    assert lines[0].startswith(start)
    assert end in lines[0]
    assert lines[-1].startswith("Nothing was written. Mend ")
    assert [path.name for path in folder.iterdir()] == ["m.yaml"]


def test_all_mistakes_are_told_in_the_files_order(load: Loader) -> None:
    with pytest.raises(ManifestError) as caught:
        load(HEAD + "models: [tinny]\nmethods: [{method: sinks, params: {keep: 3}}, {method: nothing}]\nevals: [{task: needle/none}]\n")
    lines = str(caught.value).replace(f"{load.folder}/", "").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["m.yaml:2:10", "m.yaml:3:42", "m.yaml:3:56", "m.yaml:4:16", HINT]


def test_a_good_manifest_comes_with_everything_looked_up(load: Loader) -> None:
    loaded = load(GOOD)
    assert [model.spec.source for model in loaded.models] == ["random:tiny-llama"]
    assert [(variant.name, variant.environment.name, variant.family) for variant in loaded.variants] == [("full-kv", "tf5", "kv")]
    assert [(task.key, task.params) for task in loaded.evals] == [("needle-default", {"words": 100, "style": "noise"})]
    assert loaded.text == GOOD
    assert loaded.where(("methods", 0, "method")).endswith("m.yaml:3:20")


def test_defaults_give_way_to_what_stands_nearer(load: Loader) -> None:
    loaded = load(
        """\
        name: try
        defaults:
          dtype: float16
          prompting: {max_prompt_tokens: 900, truncate: middle, template: chat}
        models: [tiny, {name: own, source: 'random:tiny-llama', dtype: bfloat16}, {name: silent, source: 'random:tiny-llama'}]
        methods: [{method: full-kv}]
        evals:
          - task: needle/default
          - {task: needle/deep, prompting: {template: none, bos: double}}
        """
    )
    assert [model.spec.dtype for model in loaded.models] == ["float16", "bfloat16", "float16"]
    first, second = (task.prompting for task in loaded.evals)
    assert (first.template, first.max_prompt_tokens, first.truncate, first.bos) == ("chat", 900, "middle", "once")
    assert (second.template, second.max_prompt_tokens, second.truncate, second.bos) == ("none", 900, "middle", "double")


def test_without_defaults_the_models_file_decides(load: Loader) -> None:
    assert load(GOOD).models[0].spec.dtype == "float32"


def test_a_method_may_be_a_folder_beside_the_manifest(load: Loader) -> None:
    write_method(load.folder / "mine", METHODS["full_kv"].replace("full-kv\n", "mine\n"))
    loaded = load(HEAD + MODELS + "methods: [{method: ./mine}, {method: full-kv}]\n" + EVALS)
    assert [variant.name for variant in loaded.variants] == ["mine", "full-kv"]
    assert loaded.variants[0].method.folder.resolve() == (load.folder / "mine").resolve()


def test_a_folder_may_not_take_the_name_of_another_method(load: Loader) -> None:
    write_method(load.folder / "mine", METHODS["full_kv"])
    with pytest.raises(ManifestError) as caught:
        load(HEAD + MODELS + "methods: [{method: ./mine}]\n" + EVALS)
    assert "two methods are called 'full-kv'" in str(caught.value)
    assert str(load.folder / "mine") in str(caught.value)
    assert str(load.catalog.get("full-kv").folder) in str(caught.value)


def test_a_mistake_in_a_methods_own_file_names_both_places(load: Loader) -> None:
    write_method(load.folder / "mine", METHODS["sinks"].replace("default: 0.25", "default: 7"))
    with pytest.raises(ManifestError) as caught:
        load(HEAD + MODELS + "methods: [{method: ./mine}]\n" + EVALS)
    assert "m.yaml:3:20: methods[0].method: the method's own file is wrong: " in str(caught.value)
    assert "method.yaml:9:32: parameters.keep.default: 7 is out of range" in str(caught.value)


def test_a_relative_model_folder_counts_from_the_manifest(load: Loader) -> None:
    (load.folder / "weights").mkdir()
    loaded = load(HEAD + "models: [{name: a, source: 'path:weights'}]\n" + METHOD + EVALS)
    assert loaded.models[0].spec.source == f"path:{(load.folder / 'weights').resolve()}"


def test_a_model_name_in_two_files_names_both_places(load: Loader, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "models.yaml"
    other.write_text("models: [{name: tiny, source: 'random:tiny-mistral'}]\n")
    with pytest.raises(
        ManifestError, match=r"models\.yaml:1:17: models\[0\]\.name: 'tiny' is the name of another model, at .*models\.yaml:2:5"
    ):
        load(GOOD, model_files=[load.models, other])


LONG = HEAD + MODELS + METHOD + "evals: [{task: needle/default, params: {words: 2000}}]\n"


def test_the_window_is_asked_for_where_the_manifest_names_none(load: Loader) -> None:
    asked: list[str] = []

    def window(model: object) -> int:
        asked.append(getattr(model, "name", ""))
        return 1024

    with pytest.raises(ManifestError, match="2000 tokens and 20 new ones do not fit the 1024 positions of tiny"):
        load(LONG, window=window)
    assert asked == ["tiny"]
    assert load(LONG, window=lambda model: None).evals
    assert load(LONG, window=lambda model: 2020).evals
    assert load(LONG).evals


@pytest.mark.parametrize(
    "text",
    [
        LONG.replace("words: 2000}", "words: 2000}, prompting: {truncate: middle, max_prompt_tokens: 1000}"),
        LONG.replace("methods: [{method: full-kv}]", "methods: [{method: quant, params: {bits: 2}}]"),
        LONG.replace("[{task", "[{task: needle/deep}, {task") + "exclude: [{task: needle/default}]\n",
    ],
    ids=["cut to fit", "the method extends the window", "excluded"],
)
def test_long_prompts_may_fit_all_the_same(text: str, load: Loader) -> None:
    assert load(text, window=lambda model: 1024).evals


def test_random_weights_may_be_scored(load: Loader) -> None:
    assert load(GOOD).models[0].spec.source.startswith("random:")


def test_a_label_tells_two_selections_of_a_task_apart(load: Loader) -> None:
    text = HEAD + MODELS + METHOD + "evals: [{task: needle/default}, {task: needle/default, label: long, params: {words: 900}}]\n"
    assert [task.key for task in load(text).evals] == ["needle-default", "long"]


class Broken:
    def names(self) -> tuple[str, ...]:
        return ("bad", "needle")

    def get(self, name: str) -> object:
        if name == "bad":
            raise ImportError("the eval 'bad' cannot be loaded")
        raise AssertionError


def test_an_eval_that_cannot_be_loaded_is_told_at_its_place(load: Loader) -> None:
    with pytest.raises(ManifestError, match=r"m\.yaml:4:16: evals\[0\]\.task: the eval 'bad' cannot be loaded"):
        load(HEAD + MODELS + METHOD + "evals: [{task: bad/one}]\n", evals=Broken())


def test_the_manifest_may_be_named_by_a_relative_path(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    from longctx.orchestrator.manifest.load import load_manifest

    (load.folder / "m.yaml").write_text(GOOD + "sed: 1\n")
    monkeypatch.chdir(load.folder)
    with pytest.raises(ManifestError) as caught:
        load_manifest(Path("m.yaml"), load.catalog)
    assert str(caught.value).startswith("m.yaml:5:1: sed: unknown key")
