"""The web page of `sft demo`: base beside each adapter, answers as they are written. Drawn by gradio, which is an extra."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sft.data.sample import Message
from sft.errors import ExitCode, UserError
from sft.export.conversation import BASE
from sft.export.generation import GenerationSettings
from sft.extras import missing_extra

if TYPE_CHECKING:
    from sft.export.generate import Engine

ENDINGS = {"length": "cut at max_new_tokens", "stopped": "broken off"}
NUMBERS = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty")
Histories = dict[str, list[Message]]


def load_gradio() -> Any:
    """Import gradio with everything off that asks another machine.

    Raises:
        UserError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError:
        raise missing_extra("gradio") from None
    return gradio


class Page:
    """One page over one engine. Its models answer one after the other, since they share their weights."""

    def __init__(self, engine: Engine, settings: GenerationSettings, title: str) -> None:
        self.engine, self.settings, self.title = engine, settings, title
        whole = os.path.basename(engine.subject.base.rstrip("/"))
        self.models: dict[str, str | None] = {BASE if engine.names else whole: None}
        self.models |= {name: name for name in engine.names}

    def build(self, gr: Any) -> Any:
        """Lay the page out."""
        settings = self.settings
        with gr.Blocks(title=self.title, analytics_enabled=False, fill_width=True) as page:
            histories = gr.State({})
            gr.Markdown(f"## {self.title}")
            with gr.Row():
                screens = [
                    gr.Chatbot(label=name, height=420, render_markdown=False, buttons=["copy"], feedback_options=None)
                    for name in self.models
                ]  # fmt: skip
            question = gr.Textbox(
                label="Say something",
                lines=1,
                max_lines=8,
                autofocus=True,
                placeholder="Enter sends, Shift-Enter breaks the line",
            )
            with gr.Row():
                send = gr.Button("Send", variant="primary")
                stop = gr.Button("Stop")
                clear = gr.Button("New conversation")
            status = gr.Markdown()
            with gr.Accordion("Settings", open=False):
                chosen = gr.CheckboxGroup(list(self.models), value=list(self.models), label="who answers")
                system = gr.Textbox(label="system prompt")
                with gr.Row():
                    numbers = [
                        gr.Slider(1, 4096, value=settings.max_new_tokens, step=1, label="max_new_tokens"),
                        gr.Slider(0, 2, value=settings.temperature, step=0.05, label="temperature (0: the likeliest)"),
                        gr.Slider(0, 1, value=settings.top_p, step=0.01, label="top_p"),
                        gr.Slider(0, 200, value=settings.top_k, step=1, label="top_k (0: off)"),
                        gr.Slider(0.8, 2, value=settings.repetition_penalty, step=0.01, label="repetition_penalty"),
                        gr.Textbox(
                            "" if settings.seed is None else str(settings.seed), label="seed (empty: another each time)"
                        ),
                    ]  # fmt: skip
            asking = gr.on(
                [send.click, question.submit],
                self.ask,
                [question, chosen, system, *numbers, histories],
                [question, histories, *screens, status],
                api_name="ask",
                concurrency_limit=1,
                show_progress="hidden",
            )
            stop.click(None, cancels=[asking])
            clear.click(
                lambda: [{}, *([] for _ in screens), ""],
                None,
                [histories, *screens, status],
                api_name="clear",
            )
        return page

    def ask(self, question: str, chosen: list[str], system: str, *rest: Any) -> Iterator[tuple[Any, ...]]:
        """Ask the chosen models one after the other, and give what is on the screen whenever there is more of it."""
        *values, seed, histories = rest
        histories = {name: list(histories.get(name, [])) for name in self.models}
        if not question.strip() or not chosen:
            yield self._shown(question, histories, "ask something, and choose who answers")
            return
        try:
            settings = self.settings
            for name, value in zip((*NUMBERS, "seed"), (*values, seed), strict=True):
                whole = name in ("max_new_tokens", "top_k")
                settings = settings.changed(name, str(int(value) if whole else value).strip())
        except UserError as error:
            yield self._shown(question, histories, str(error))
            return
        told: list[str] = []
        for name in (one for one in self.models if one in chosen):
            history = histories[name]
            try:
                for text in self._answer(name, history, question, system, settings, told):
                    yield self._shown("", histories | {name: [*history, *_turn(question, text)]}, "")
                    kept = text
            except UserError as error:
                told.append(f"{name}: {error.problems[0].what}")
                continue
            histories[name] = [*history, *_turn(question, kept)]
        yield self._shown("", histories, "; ".join(told))

    def _answer(
        self, name: str, history: list[Message], question: str, system: str, settings: GenerationSettings, told: list[str]
    ) -> Iterator[str]:  # fmt: skip
        head = [Message(role="system", content=system)] if system.strip() else []
        messages = [*head, *history, Message(role="user", content=question)]
        reply = self.engine.answer(messages, self.models[name], settings)
        yield ""
        for _ in reply:
            yield reply.text
        end = f", {ENDINGS[reply.ended]}" if reply.ended in ENDINGS else ""
        told.append(f"{name}: {reply.tokens} tokens in {reply.seconds:.1f} s{end}")

    def _shown(self, question: str, histories: Histories, status: str) -> tuple[Any, ...]:
        return question, histories, *(histories[name] for name in self.models), status


def _turn(question: str, answer: str) -> list[Message]:
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]


def serve(page: Page, host: str, port: int | None) -> tuple[Any, str]:
    """Start the page's server; return it and its address.

    Raises:
        UserError: gradio is not installed, or the port is taken.
    """
    gr = load_gradio()
    blocks = page.build(gr)
    # Fonts of the reader's own machine: the theme's would come from the internet.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = blocks.queue(default_concurrency_limit=1).launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            theme=theme,
        )
    except OSError as error:
        raise UserError(
            f"the page cannot be served: {error}",
            f"{host}:{port}" if port else host,
            "name another --port, or leave it out; --host is an address of this machine",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    return blocks, address
