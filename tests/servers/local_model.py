"""A model of this machine behind OpenAI's protocol: what vLLM serves, so that both ways to one model can be compared.

POST /v1/chat/completions (greedy) and POST /v1/completions with token ids, echo and logprobs. One request at a time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from radit_job.models.huggingface import HuggingFaceLM
from radit_job.records import Message


@contextmanager
def local_model_server(lm: HuggingFaceLM) -> Iterator[str]:
    """The server's base_url."""
    alone = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with alone:
                plain = _chat(lm, body) if self.path == "/v1/chat/completions" else _echo(lm, body)
            data = json.dumps({"object": "answer", "model": body["model"], **plain}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def _chat(lm: HuggingFaceLM, body: dict[str, Any]) -> dict[str, Any]:
    turns = [Message(**message) for message in body["messages"]]
    (done,) = lm.complete([turns], max_new_tokens=body["max_tokens"])
    message = {"role": "assistant", "content": done.text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": done.finish_reason}],
        "usage": {"prompt_tokens": done.n_prompt_tokens, "completion_tokens": done.n_completion_tokens},
    }


@torch.inference_mode()
def _echo(lm: HuggingFaceLM, body: dict[str, Any]) -> dict[str, Any]:
    ids = torch.tensor([body["prompt"]])
    logits = lm.model(input_ids=ids).logits[0].float().log_softmax(-1)  # [tokens, vocabulary]
    known = logits[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()
    newest = logits[-1].max().item()
    return {
        "choices": [{"index": 0, "text": "", "logprobs": {"token_logprobs": [None, *known, newest]}}],
        "usage": {"prompt_tokens": ids.shape[1], "completion_tokens": 1},
    }
