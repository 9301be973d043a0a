import math
import subprocess
import sys
from pathlib import Path

import pytest

from radit_job.config.loading import LoadedConfig, load_config
from radit_job.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALLEST = "name: trial\ncorpus:\n  paths: [paper.pdf]\n"


def load(folder: Path, text: str, *overrides: str) -> LoadedConfig:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the error, without the folder and without the closing advice."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    assert caught.value.exit_code == 64
    lines = str(caught.value).replace(f"{folder}/", "").split("\n")
    return [line for line in lines if not line.startswith("  ")]


def test_the_smallest_configuration_gets_the_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, SMALLEST)
    assert loaded.config.retrieval.k == 3
    assert loaded.config.models.judge is None
    assert loaded.folder == tmp_path.resolve()
    assert loaded.text == SMALLEST


def test_all_problems_are_named_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = """\
name: My Run
corpus:
  paths:
    - a.pdf
    - 7
  unreadable: explode
chunking:
  size_tokens: three
retrieval:
  kk: 5
evaluate:
  metrics:
    - token_f1
    - bleu
"""
    assert problems(tmp_path, text) == [
        "run.yaml:1: name: must be 1 to 40 lower-case letters, digits and inner dashes, not 'My Run'",
        "run.yaml:5: corpus.paths: must be text that is not empty, not 7; put it in quotes",
        "run.yaml:6: corpus.unreadable: must be one of fail, skip, not 'explode'",
        "run.yaml:8: chunking.size_tokens: must be a whole number of at least 16 (the embedder's tokens), not 'three'",
        "run.yaml:10: retrieval.kk: unknown key; did you mean k?",
        "run.yaml:14: evaluate.metrics: must be one of exact_match, token_f1, rouge_l, semantic_similarity, "
        "answer_nats_per_token, recall_at_k, mrr, correctness, faithfulness, relevancy, preference, not 'bleu'",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("retreival: {k: 3}", "retreival: unknown key; did you mean retrieval?"),
        ("lora_rank: 8", "lora_rank: unknown key; did you mean finetune_lm.lora_rank?"),
        ("answer: {k: 3}", "answer.k: unknown key; did you mean retrieval.k?"),
        ("split: {zzz: 3}", "split.zzz: unknown key; known here: train_share, by"),
        ("seed: yes", "seed: must be a whole number of at least 0, not true"),
        ("seed: 1.5", "seed: must be a whole number of at least 0, not 1.5"),
        ("split: {train_share: 1}", "split.train_share: must be a number above 0 and below 1 (share), not 1"),
        ("finetune_lm: {epochs: .inf}", "finetune_lm.epochs: must be a number above 0 (epochs), not Infinity"),
        ("questions: {limit: 1}", "questions.limit: must be a whole number of at least 2 (questions), or null, not 1"),
        ("models: {lm: {provider: huggingface}}", "models.lm.name: is required: text that is not empty"),
        ("models: {judge: gpt-4}", "models.judge: must be a section with fields of its own, or null, not 'gpt-4'"),
        ("evaluate: {arms: []}", "evaluate.arms: must be a non-empty list, each item one of closed_book, base, "),
        ("evaluate: {arms: [lm, lm]}", "evaluate.arms: named twice: lm"),
        ("retrieval: {template: '{context}'}", "retrieval.template: the template lacks {question}"),
        ("questions: {source: file}", "questions: source: file needs a path"),
        ("evaluate: {metrics: [correctness]}", "evaluate: metrics names correctness, but models.judge is null; "),
        ("chunking: {size_tokens: 32}", "chunking: overlap_tokens (32) must be below size_tokens (32)"),
        ("seed: !!python/object/apply:os.getcwd []", "seed: the tag !!python/object/apply:os.getcwd is not allowed; "),
        ("store: yes", "store: must be text that is not empty, not true; put it in quotes"),
        ("split: {by: on}", "split.by: must be one of chunk, document, not true"),
        ("store: !env HOME", "store: the tag !env is not allowed; "),
    ],
)
def test_what_is_wrong_is_said_in_words(tmp_path: Path, lines: str, message: str) -> None:
    (found,) = problems(tmp_path, SMALLEST + lines)
    assert found.startswith(f"run.yaml:4: {message}")


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    text = SMALLEST + "retrieval:\n  k: 3\n  k: 5\n"
    assert problems(tmp_path, text) == ["run.yaml:6: retrieval.k: given twice, first on line 5"]


def test_missing_fields_point_to_their_section(tmp_path: Path) -> None:
    text = "# a comment\nname: trial\ncorpus:\n  unreadable: skip\n"
    assert problems(tmp_path, text) == [
        "run.yaml:3: corpus.paths: is required: a non-empty list, each item text that is not empty"
    ]


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "corpus:\n"])
def test_an_empty_file_lacks_what_is_required(tmp_path: Path, text: str) -> None:
    fields = [line.split(": ")[1] for line in problems(tmp_path, text)]
    assert sorted(fields) == ["corpus.paths", "name"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nseed: [1, 2\nstore: y\n", "run.yaml:3:6: not valid YAML: expected ',' or ']', but got ':'"),
        ("name: x\n\tseed: 1\n", "run.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("name: x: y\n", "run.yaml:1:8: not valid YAML: mapping values are not allowed here"),
        ("name: x\n---\nname: y\n", "run.yaml:2:1: not valid YAML: expected a single document in the stream, but "),
        ("name: x\nseed: \x01\n", "run.yaml:2: not valid YAML: the character #x0001 cannot stand in a text"),
        ("name: &loop [*loop]\n", "run.yaml: values are nested too deeply, or an anchor holds itself"),
        ("name: " + "[" * 1200, "run.yaml: values are nested too deeply"),
        ("- name\n", 'run.yaml:1: must be fields and sections, such as `name: my-run`, not ["name"]'),
    ],
)
def test_what_is_no_configuration_at_all_gets_one_message(tmp_path: Path, text: str, message: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(message)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such configuration file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="this is a folder"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_anchors_merge_and_own_keys_win(tmp_path: Path) -> None:
    text = SMALLEST + "models:\n  lm: &lm {provider: huggingface, name: ./lm}\n"
    text += (
        "  question_writer: {<<: *lm, dtype: float32}\n  judge: &judge {<<: *lm, name: ./judge}\n  embedder: *judge\n"
    )
    models = load(tmp_path, text).config.models
    assert models.embedder == models.judge
    assert (models.question_writer.name, models.question_writer.dtype) == ("./lm", "float32")
    assert (models.judge.name if models.judge else None) == "./judge"


def test_values_that_yaml_reads_in_its_own_way(tmp_path: Path) -> None:
    text = "name: 2026-11-21\ncorpus: {paths: [$HOME/a.pdf]}\nfinetune_lm: {learning_rate: 5e-4}\nretrieval:\n"
    config = load(tmp_path, text).config
    assert config.name == "2026-11-21"  # not a date
    assert config.corpus.paths == ["$HOME/a.pdf"]  # not expanded
    assert math.isclose(config.finetune_lm.learning_rate or 0, 5e-4)  # text to YAML 1.1, a number to everybody else
    assert config.retrieval.k == 3  # an empty section has its defaults


def test_overrides_win_over_the_file_and_later_ones_over_earlier_ones(tmp_path: Path) -> None:
    text = SMALLEST + "retrieval: {k: 2}\nmodels:\n"
    overrides = ["retrieval.k=4", "retrieval.k=5", "models.lm={provider: huggingface, name: a}", "models.lm.name=b"]
    config = load(tmp_path, text, *overrides, "evaluate.arms=[base, lm]", "questions.limit=null").config
    assert config.retrieval.k == 5
    assert (config.models.lm.provider, config.models.lm.name) == ("huggingface", "b")
    assert config.evaluate.arms == ["base", "lm"]


def test_an_override_of_text_needs_no_quotes(tmp_path: Path) -> None:
    overrides = ["name=007", "models.lm={provider: huggingface, name: x}", "models.lm.revision=1234567"]
    overrides += ["questions.path=null"]
    overrides += ["retrieval.system_prompt=Be #1", 'store="a b"']
    config = load(tmp_path, SMALLEST, *overrides, "retrieval.template={context} {question}: no").config
    assert (config.retrieval.system_prompt, config.store) == ("Be #1", "a b")
    assert (config.name, config.models.lm.revision, config.questions.path) == ("007", "1234567", None)
    assert config.retrieval.template == "{context} {question}: no"


def test_the_record_of_an_overridden_run_loads_to_the_same_configuration(tmp_path: Path) -> None:
    text = SMALLEST + "finetune_lm: {learning_rate: 5e-4}\nmodels: {lm: {name: '0012'}}\n"
    loaded = load(tmp_path, text, "retrieval.k=5", "retrieval.template={context}\n---\n{question} ", "name=2026-11-21")
    assert loaded.text.startswith("# run.yaml with --set retrieval.k=5 --set retrieval.template={context} ---")
    assert load(tmp_path, loaded.text).config == loaded.config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retrieval.kk=3", "retrieval.kk: unknown key; did you mean k?"),
        ("retreival.k=3", "retreival: unknown key; did you mean retrieval?"),
        ("retrieval.k=three", "retrieval.k: must be a whole number of at least 1 (chunks), not 'three'"),
        ("retrieval.k=", "retrieval.k: must be a whole number of at least 1 (chunks), not null"),
        ("seed.x=3", "seed: must be a whole number of at least 0, not a section"),
        ("retrieval.k", "must have the form section.field=value"),
        ("=3", "must have the form section.field=value"),
        ("seed=[1", "seed: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("models.judge.dtype=float32", "models.judge.name: is required: text that is not empty"),
        ("chunking.size_tokens=32", "chunking: overlap_tokens (32) must be below size_tokens (32)"),
    ],
)
def test_a_wrong_override_is_named_instead_of_a_line(tmp_path: Path, override: str, message: str) -> None:
    text = SMALLEST + "chunking:\n  overlap_tokens: 32\n"
    assert problems(tmp_path, text, override) == [f"--set {override}: {message}"]


def test_problems_of_file_and_overrides_come_together_in_their_order(tmp_path: Path) -> None:
    found = problems(tmp_path, SMALLEST + "seed: x\nfoo: 1\n", "retrieval.k=0", "answer.temperature=-1")
    assert [line.split(": ")[0] for line in found] == [
        "run.yaml:4",
        "run.yaml:5",
        "--set retrieval.k=0",
        "--set answer.temperature=-1",
    ]


def test_reading_a_configuration_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'llama_index', 'typer', 'numpy'}"
    code = f"import sys, radit_job.config.loading, radit_job.config.show; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_one_field_of_a_default_model_can_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("{name: a, corpus: {paths: [b]}}")
    model = load_config(path, ["models.lm.dtype=float32"]).config.models.lm
    assert (model.name, model.dtype) == ("smollm2-135m-instruct", "float32")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("stages: {answr: {shards: 2}}", "stages.answr: unknown key; did you mean answer?"),
        ("stages: {answer: {shard: 2}}", "stages.answer.shard: unknown key; did you mean shards?"),
        ("stages: {zzz: {}}", "stages.zzz: unknown key; known here: ingest, index, "),
        ("stages: {split: {shards: 2}}", "stages: split cannot be divided into shards; these can: index, generate, "),
        ("stages: {answer: {profile: tpu}}", "stages: answer names the profile 'tpu'; there are: cpu, gpu"),
        ("stages: {answer: {shards: 0}}", "stages.answer.shards: must be a whole number of at least 1 and of at most "),
        ("stages: 3", "stages: must be sections by name, the name one of ingest, "),
        ("profiles: {GPU: {}}", "profiles.GPU: its name must be a Kubernetes name: lower-case letters, "),
        ("profiles: {gpu: {gpuss: 1}}", "profiles.gpu.gpuss: unknown key; did you mean gpus?"),
        (
            "profiles: {gpu: {shards: 1}}",
            "profiles.gpu.shards: unknown key; did you mean kubernetes.stages.NAME.shards?",
        ),
        ("profiles: {gpu: 3}", "profiles.gpu: must be a section with fields of its own, not 3"),
        ("profiles: [gpu]", "profiles: must be sections by name, the name a Kubernetes name: lower-case letters, "),
        ("profiles: {a: {env: {X: true}}}", "profiles.a.env.X: must be text, not true; put it in quotes"),
        ("profiles: {a: {env: {RADIT_TRY: x}}}", "profiles.a.env: RADIT_TRY is set by radit or by Kubernetes"),
        ("profiles: {a: {env: {HF_TOKEN: x}}}", "profiles.a.env: HF_TOKEN looks like a secret, "),
        ("env: {1X: x}", "env: 1X is no environment variable's name"),
        ("profiles: {a: {node_selector: {x: 'a b'}}}", "profiles.a.node_selector: the value of x must be up to 63 "),
        ("profiles: {a: {labels: {radit-job.io/run: x}}}", "profiles.a.labels: radit-job.io/run is set by radit "),
        ("profiles: {a: {annotations: {'a b': x}}}", "profiles.a.annotations: 'a b' must be up to 63 letters, "),
        ("profiles: {a: {tolerations: [{value: x}]}}", "profiles.a.tolerations: a value needs a key; "),
        ("profiles: {a: {model_cache: {}}}", "profiles.a.model_cache: give either a claim or a host_path"),
        (
            "profiles: {a: {model_cache: {claim: x, mount_path: /tmp/}}}",
            "profiles.a.model_cache: mount_path cannot be ",
        ),
        ("profiles: {a: {env_from: [{secret: x, config_map: y}]}}", "profiles.a.env_from: give either a secret or a "),
        (
            "profiles: {a: {pod_template: {containers: []}}}",
            "profiles.a.pod_template: a pod template has metadata and ",
        ),
        ("profiles: {a: {gpu_resource: gpu}}", "profiles.a.gpu_resource: must be an extended resource, such as "),
        ("image: 'a b'", "image: must be an image, such as registry.example.org/radit-job:1.0, not 'a b'"),
        ("namespace: a.b", "namespace: must be a namespace: up to 63 lower-case letters, digits and inner dashes, or "),
    ],
)
def test_what_is_wrong_in_the_clusters_section_is_said_in_words(tmp_path: Path, lines: str, message: str) -> None:
    (found,) = problems(tmp_path, f"{SMALLEST}kubernetes:\n  {lines}\n")
    assert found.startswith(f"run.yaml:5: kubernetes.{message}")


def test_no_error_about_a_secret_shows_it(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, SMALLEST + "kubernetes:\n  env: {AWS_SECRET_ACCESS_KEY: canary}\n")
    assert "AWS_SECRET_ACCESS_KEY" in found
    assert "canary" not in found


def test_overrides_reach_into_profiles_and_stages(tmp_path: Path) -> None:
    overrides = [
        "kubernetes.profiles.gpu.gpus=2",
        "kubernetes.profiles.gpu.env.X=1",
        "kubernetes.stages.answer.shards=4",
    ]
    overrides += [
        "kubernetes.profiles.big.node_selector={example.org/size: big}",
        "kubernetes.stages.index.profile=big",
    ]
    settings = load(tmp_path, SMALLEST, *overrides).config.kubernetes
    assert (settings.profiles["gpu"].gpus, settings.profiles["gpu"].env) == (2, {"X": "1"})
    assert settings.placement("answer").shards == 4
    assert settings.profile("index").node_selector == {"example.org/size": "big"}


def test_naming_a_built_in_profile_changes_only_what_is_given(tmp_path: Path) -> None:
    settings = load(tmp_path, SMALLEST + "kubernetes:\n  profiles: {gpu: {memory_gib: 40}, cpu: }\n").config.kubernetes
    assert (settings.profiles["gpu"].gpus, settings.profiles["gpu"].memory_gib) == (1, 40)
    assert sorted(load(tmp_path, SMALLEST + "kubernetes: {profiles: {a: {}}}\n").config.kubernetes.profiles) == [
        "a",
        "cpu",
        "gpu",
    ]


def test_a_profile_has_what_the_section_says_for_every_pod(tmp_path: Path) -> None:
    text = """\
kubernetes:
  service_account: store-user
  env: {A: all, B: all}
  env_from: [{secret: store, optional: true}]
  profiles:
    gpu: {image: cuda, env: {B: own}, env_from: [{secret: store}, {config_map: more}], image_pull_secrets: [pull]}
  stages: {answer: {profile: gpu}}
"""
    settings = load(tmp_path, SMALLEST + text).config.kubernetes
    profile = settings.profile("answer")
    assert (profile.image, profile.service_account, profile.env) == ("cuda", "store-user", {"A": "all", "B": "own"})
    assert [(one.secret, one.config_map, one.optional) for one in profile.env_from] == [
        ("store", None, False),
        (None, "more", False),
    ]
    assert settings.profile("split").image == "radit-job:latest"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_loads_and_finds_its_files(path: Path) -> None:
    loaded = load_config(path)
    missing = [one for one in loaded.config.corpus.paths if not (loaded.folder / one).exists()]
    # A document that may not be copied is fetched first; the example says how.
    assert all(f"curl -L -o examples/{one} https://" in path.read_text(encoding="utf-8") for one in missing)
    assert {placed.profile for placed in loaded.config.kubernetes.stages.values()} <= set(
        loaded.config.kubernetes.profiles
    )


def test_a_served_lm_with_tuned_arms_needs_an_engine_that_can_tune_it(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ncorpus: {paths: [a.txt]}\nmodels:\n  lm: {provider: openai, name: gpt}\n")
    with pytest.raises(ConfigError, match="leave these arms out of evaluate"):
        load_config(path)
    assert load_config(path, ["evaluate.arms=[base]"]).config.models.lm.name == "gpt"
    assert load_config(path, ["finetune_lm.engine=openai"]).config.evaluate.arms[-1] == "lm"


def test_a_key_in_the_place_of_its_variable_s_name_is_not_repeated(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a\ncorpus: {paths: [a.txt]}\nmodels:\n  judge: {provider: openai, name: g, api_key_env: sk-canary-1}\n"
    )
    with pytest.raises(ConfigError, match="never the key itself") as caught:
        load_config(path)
    assert "canary" not in str(caught.value) and "a.yaml:4" in str(caught.value)
