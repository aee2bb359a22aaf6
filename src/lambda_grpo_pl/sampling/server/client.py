"""One vLLM server, as far as a sampler needs it: token ids in and out, scores, and requests about its weights."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import httpx

from lambda_grpo_pl.batch import Completions
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.completions import InvalidSampleError, check_completions, pad_responses
from lambda_grpo_pl.sampling.protocol import SyncReport
from lambda_grpo_pl.sampling.recovery import backoff_seconds
from lambda_grpo_pl.sampling.server.settings import ServerSettings
from lambda_grpo_pl.sampling_settings import SamplingSettings

log = logging.getLogger(__name__)


class ServerError(RuntimeError):
    """A server does not answer, or answers something that cannot be right, after all retries."""


class Server:
    """A client of one server. Requests may come from several threads.

    Attributes:
        url: Its address.
        is_in_use: Whether it takes part: from its first weights on, but not between a failure and new weights.
        was_left_out: Whether it failed since it last had weights.
        last_sync: The report of the last time it took weights.
        weights: The name of those weights.
    """

    def __init__(self, url: str, settings: ServerSettings, pad_token_id: int) -> None:
        """Nothing is requested yet."""
        self.url = url.rstrip("/")
        self.is_in_use = self.was_left_out = False
        self.last_sync: SyncReport | None = None
        self.weights = ""
        self._settings, self._pad_token_id, self._model = settings, pad_token_id, ""
        key = settings.api_key
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(settings.timeout_s, connect=10.0),
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # a proxy from the environment would carry prompts and weights elsewhere
        )

    def is_healthy(self) -> bool:
        """Whether the server answers at all."""
        try:
            return self._http.get("/health", timeout=5.0).is_success
        except httpx.HTTPError:
            return False

    def greet(self) -> None:
        """Ask under which name it serves, which a restart may change; needs the key, as requests for weights do not."""
        self._model = ""
        self._served_model()

    def take_part(self, report: SyncReport) -> None:
        """Let the server sample: it has the weights of `report`."""
        if self.was_left_out:
            log.warning("%s is back and has the present weights.", self.url)
        self.adopt(report, self.weights, is_in_use=True)

    def adopt(self, report: SyncReport, weights: str, is_in_use: bool) -> None:
        """Note what another rank found when the server took weights."""
        self.last_sync, self.weights, self.is_in_use, self.was_left_out = report, weights, is_in_use, not is_in_use

    def name_weights(self, name: str) -> None:
        """Give the weights that it has a name, which it forgets if it restarts. Raises `ServerError`, `UserError`."""
        self.request("POST", "/update_weight_version", {"new_version": name})
        self.weights = name

    def has_restarted(self) -> bool:
        """Whether it has other weights than those that this run named. Raises `ServerError`, `UserError`."""
        return bool(self.request("GET", "/weight_info")["weight_version"] != self.weights)

    def check_weights(self) -> None:
        """Raise `ServerError` if what it samples is not the policy's any more."""
        if self.has_restarted():
            raise ServerError(
                f"{self.url} has other weights than the last sync sent: it has restarted, or another run uses it."
            )

    def sample(
        self, prompt: Sequence[int], settings: SamplingSettings, stop_token_ids: Sequence[int], seed: int
    ) -> Completions:
        """Sample a group of `settings.num_samples` responses. Raises `ServerError`, `UserError`."""
        reply = self.request(
            "POST",
            "/v1/completions",
            {
                "model": self._served_model(),
                "prompt": list(prompt),
                "n": settings.num_samples,
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "top_k": settings.top_k,
                "max_tokens": settings.max_tokens,
                "stop_token_ids": [*stop_token_ids, *settings.stop_token_ids],
                "ignore_eos": True,  # stop_token_ids names all ends
                "logprobs": 0,
                "return_token_ids": True,
                "seed": seed,
            },
        )
        try:
            choices = sorted(reply["choices"], key=lambda choice: choice["index"])
            group = pad_responses(
                [choice["token_ids"] for choice in choices],
                [choice["logprobs"]["token_logprobs"] for choice in choices],
                [choice["finish_reason"] == "length" for choice in choices],
                self._pad_token_id,
            )
            check_completions(group, settings.num_samples, settings.max_tokens)
        except InvalidSampleError as error:
            raise ServerError(f"{self.url}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:  # JSON of another kind
            raise ServerError(f"{self.url} did not return responses ({type(error).__name__}: {error}).") from error
        return group

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences, as `Sampler.probe` describes."""
        scores = []
        for sequence in token_ids:
            reply = self.request(
                "POST",
                "/v1/completions",
                {
                    "model": self._served_model(),
                    "prompt": list(sequence),
                    "max_tokens": 1,
                    "temperature": 0.0,
                    "prompt_logprobs": 0,
                },
            )
            places = reply["choices"][0]["prompt_logprobs"][1:]
            scores.append([place[str(token)]["logprob"] for token, place in zip(sequence[1:], places, strict=True)])
        return scores

    def leave_out(self, error: Exception) -> None:
        """Let the server rest until the next weight sync, loudly."""
        if not self.was_left_out:
            self.is_in_use, self.was_left_out = False, True
            log.warning("%s is left out until it answers and has new weights: %s", self.url, error)

    def close(self) -> None:
        """Close the connections; the server goes on running."""
        self._http.close()

    def _served_model(self) -> str:
        """Return the name that requests must give."""
        self._model = self._model or self.request("GET", "/v1/models")["data"][0]["id"]
        return self._model

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, max_retries: int | None = None
    ) -> Any:
        """Return the reply's JSON, after repeating what may have failed by chance. Raises `ServerError`, `UserError`.

        `max_retries` is 0 for what must not happen twice; None: `rollout.server.max_retries`.
        """
        num_attempts = 1 + (self._settings.max_retries if max_retries is None else max_retries)
        for attempt in range(num_attempts):
            if attempt:
                time.sleep(backoff_seconds(attempt))
            try:
                reply = self._http.request(method, path, json=body)
                if reply.status_code < 500:
                    break
                failure = f"status {reply.status_code}: {reply.text[:200]}"
            except httpx.HTTPError as error:
                failure = f"{type(error).__name__} {error}".strip()
        else:
            raise ServerError(f"{self.url}{path} failed with {failure} (attempts: {num_attempts}).")
        if not reply.is_success:
            raise UserError(_explain(self.url, path, reply))
        try:
            return reply.json() if reply.content else None
        except ValueError as error:
            raise ServerError(f"{self.url}{path} did not answer with JSON.") from error


def _explain(url: str, path: str, reply: httpx.Response) -> str:
    if reply.status_code == 401:
        return f"{url} refuses the API key: set rollout.server.api_key_env to the variable that holds its --api-key."
    if reply.status_code == 404:
        return (
            f"{url} has no {path}: start the server with VLLM_SERVER_DEV_MODE=1, as `lambda-grpo serve` does, so that "
            "it takes new weights."
        )
    return (
        f"{url}{path} refused the request with status {reply.status_code}: {reply.text[:300]} Compare the server's "
        "model and --max-model-len with `lambda-grpo serve` for this configuration."
    )
