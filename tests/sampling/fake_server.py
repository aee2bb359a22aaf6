"""A stand-in for a vLLM server whose faults can be chosen; what it samples and scores is real (transformers)."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from lambda_grpo_pl.batch import Prompts
from lambda_grpo_pl.sampling import SamplingSettings, TransformersSampler

KEY = "secret-key"


class FakeServer:
    """Serves the endpoints that `Server` uses, on a free port of the loopback address."""

    def __init__(self, config: Any, eos: int, pad: int, port: int = 0, key: str | None = None) -> None:
        self.sampler = TransformersSampler([eos], pad, config=config)
        self.fault, self.version = "", "default"
        self.num_groups = 0
        self.dies_after: int | None = None
        self.key = key
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._http.daemon_threads = True
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restart(self, weights: nn.Module) -> None:
        """Come back with these weights, as those that it was started with."""
        self.version = "default"
        self.sampler.receive(weights.state_dict().items())

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "tiny"}]}
        if path == "/weight_info":
            return {"weight_version": self.version}
        if path == "/update_weight_version":
            self.version = body["new_version"]
        elif path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            files = sorted(Path(body["kwargs"]["weights_path"]).glob("*.safetensors"))
            if self.fault != "stale":
                self.sampler.receive([pair for file in files for pair in load_file(file).items()])
        elif path == "/v1/completions":
            with self._lock:
                return self._complete(body)
        return None

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        if "prompt_logprobs" in body:
            scores = self.sampler.probe([body["prompt"]])[0]
            places = [{str(token): {"logprob": score}} for token, score in zip(body["prompt"][1:], scores, strict=True)]
            return {"choices": [{"prompt_logprobs": [None, *places]}]}
        self.num_groups += 1
        if self.num_groups == self.dies_after:
            self.fault = "dead"
        prompts = Prompts(torch.tensor([body["prompt"]]), torch.tensor([len(body["prompt"])]), ({},))
        settings = SamplingSettings(
            temperature=body["temperature"], max_tokens=body["max_tokens"], num_samples=body["n"]
        )
        drawn = self.sampler.generate(prompts, settings, body["seed"])
        choices = [
            {
                "index": row,
                "token_ids": drawn.tokens(row),
                "logprobs": {"token_logprobs": drawn.logprobs[row, : int(drawn.lengths[row])].tolist()},
                "finish_reason": "length" if drawn.truncated[row] else "stop",
            }
            for row in range(body["n"])
        ]
        if self.fault == "nan":
            choices[0]["logprobs"]["token_logprobs"][0] = float("nan")
        if self.fault == "short":
            choices[0]["logprobs"]["token_logprobs"] = []
        if self.fault == "fewer":
            choices.pop()
        if self.fault == "malformed":
            choices = [{"index": 0, "token_ids": ["a"]}]
        return {"choices": choices[::-1]}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
                sampling = self.path == "/v1/completions" and "prompt_logprobs" not in body
                if fake.fault == "dead" or (fake.fault == "dies" and sampling):
                    self.connection.close()
                    return
                if fake.fault == "hangs" and sampling:
                    threading.Event().wait(3)
                status = 200
                if fake.fault == "500" and sampling:
                    status = 500
                if (
                    fake.key
                    and self.path.startswith("/v1")
                    and self.headers.get("Authorization") != f"Bearer {fake.key}"
                ):
                    status = 401
                if fake.fault == "no-dev-mode" and self.path == "/collective_rpc":
                    status = 404
                reply = b"no"
                if status == 200:
                    try:
                        reply = json.dumps(fake.answer(self.path, body)).encode()
                    except Exception as error:  # a server answers so whatever fails in it
                        status, reply = 500, repr(error).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
