"""Samples to tokens, with a mask of the tokens that carry loss, truncated as the run says.

Which characters are trained is decided on the text; a token carries loss if it holds any of them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from tokenizers import Encoding, Tokenizer

from sft.data import special_text
from sft.data.loss import EncodeSettings, choose
from sft.data.masks import mask_by_offsets, mask_of, without_marks
from sft.data.sample import BadRow, Chat, PromptCompletion, Sample, Text, Tokens
from sft.data.spans import Masker
from sft.data.spelled import Spelled
from sft.data.template import ChatTemplate, Span
from sft.data.tokenizer import TokenizerFiles
from sft.data.words import Words, cuts_at_spaces

Answer = Literal["whole", "cut", "lost"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as tokens.

    Attributes:
        ids: int32, T tokens, truncated.
        mask: T bytes, 1 where the token carries loss.
        length: tokens before truncation.
        cut: tokens that truncation took away.
        answer: whether the tokens that carry loss survived it.
        digest: 64 bits of the ids before truncation, to find duplicates by.
        how: what the mask was found by.
        special_text: the content spells a special token.
        differs: the text is not what the model's own template renders (see `spans.Rendered`).
    """

    ids: array[int]
    mask: bytearray
    length: int
    cut: int
    answer: Answer
    digest: int
    how: str
    special_text: bool = False
    differs: bool = False


@dataclass(slots=True)
class _Drafted:
    """A row between rendering and tokenizing: text, and the characters that carry loss (None for all)."""

    text: str
    spans: list[Span] | None
    how: str
    differs: bool = False
    with_special_tokens: bool = False
    special: special_text.SpecialText | None = None
    """Set where the content spells a token; `text` has marks then, and so have the places in `spans`."""


class Encoder:
    """Turns samples into tokens. One a worker."""

    def __init__(self, files: TokenizerFiles, settings: EncodeSettings) -> None:
        self.tokenizer: Tokenizer = files.build()
        self._spelled = Spelled.by(self.tokenizer)
        self._words = Words(self.tokenizer) if cuts_at_spaces(self.tokenizer) else None
        self._adds_tokens = self.tokenizer.num_special_tokens_to_add(is_pair=False) > 0
        self.files, self.settings = files, settings
        self._maskers: dict[str, Masker] = {}
        self._special: dict[str, special_text.SpecialText] = {}
        self._eos = settings.eos_token or files.special.get("eos_token") or ""

    def encode(self, samples: Sequence[Sample]) -> list[Encoded | BadRow]:
        """Tokenize rows together, which is faster than one by one; a bad row does not hold up the others."""
        drafts: list[_Drafted | Encoded | BadRow] = []
        for sample in samples:
            try:
                drafts.append(
                    self._finish_tokens(sample) if isinstance(sample, Tokens) else self._draft(sample)
                )
            except BadRow as bad:
                drafts.append(bad)
        tokens: dict[int, array[int] | Encoding] = {}
        for special, spelled in product((False, True), repeat=2):
            chosen = {
                index: draft
                for index, draft in enumerate(drafts)
                if isinstance(draft, _Drafted)
                and draft.special is None
                and draft.with_special_tokens is special
                and self._is_spelled(draft) is spelled
            }
            tokens.update(self._tokenize(chosen, special=special, spelled=spelled))
        return [self._finish(draft, tokens.get(index)) for index, draft in enumerate(drafts)]

    def _tokenize(
        self, drafts: dict[int, _Drafted], *, special: bool, spelled: bool
    ) -> Iterator[tuple[int, array[int] | Encoding]]:
        """Yield the tokens of each row, with their offsets unless those are spelled."""
        if not spelled:
            texts = [draft.text for draft in drafts.values()]
            yield from zip(
                drafts, self.tokenizer.encode_batch(texts, add_special_tokens=special), strict=True
            )
            return
        left = dict(drafts)
        if self._words is not None and not (special and self._adds_tokens):
            for index, ids in zip(
                drafts, self._words.encode([draft.text for draft in drafts.values()]), strict=True
            ):
                if ids is not None:
                    del left[index]
                    yield index, ids
        texts = [draft.text for draft in left.values()]
        for index, encoding in zip(
            left, self.tokenizer.encode_batch_fast(texts, add_special_tokens=special), strict=True
        ):
            yield index, array("i", encoding.ids)

    # --- text

    def _draft(self, sample: Chat | PromptCompletion | Text) -> _Drafted:
        settings = self.settings
        if isinstance(sample, Chat):
            return self._draft_chat(sample)
        if isinstance(sample, Text):
            return _Drafted(self._ended(sample.text), None, "all of the text", with_special_tokens=True)
        text = sample.prompt + self._ended(sample.completion)
        if settings.completion_only_loss is False:
            return _Drafted(text, None, "prompt and completion", with_special_tokens=True)
        return _Drafted(text, [(len(sample.prompt), len(text))], "the completion", with_special_tokens=True)

    def _ended(self, text: str) -> str:
        """Put the end-of-sequence token behind a text that has none, as TRL does."""
        return text if text.endswith(self._eos) else text + self._eos

    def _draft_chat(self, chat: Chat) -> _Drafted:
        masker = self._masker(bool(chat.tools))
        special = self._special[masker.template.text]
        spelled = special.spelled_in(chat)
        if spelled and self.settings.special_tokens_in_content == "refuse":
            raise special_text.refused()
        chosen = choose(masker, special.mark(chat) if spelled else chat, self.settings)
        if spelled and special_text.bare(chosen.text) != choose(masker, chat, self.settings).text:
            raise special_text.unclear("the template reads it")
        draft = _Drafted(chosen.text, chosen.spans, chosen.how, chosen.differs)
        draft.special = special if spelled else None
        return draft

    def _masker(self, has_tools: bool) -> Masker:
        text = self.files.template(has_tools)
        if text is None:
            raise BadRow(
                "the tokenizer has no chat template",
                "set chat_template_path to a template or to a model that has one, or give dataset_mapping with"
                " prompt and completion as plain text",
                reason="no chat template",
                malformed=True,
            )
        if text not in self._maskers:
            template = ChatTemplate(text, self.files.special)
            added = self.tokenizer.get_added_tokens_decoder().values()
            self._maskers[text] = Masker(
                template, [token.content for token in added if token.content.strip()]
            )
            self._special[text] = special_text.SpecialText(
                self.tokenizer, self.files.control, template.literals()
            )
        return self._maskers[text]

    # --- tokens

    def _finish(
        self, draft: _Drafted | Encoded | BadRow, tokens: array[int] | Encoding | None
    ) -> Encoded | BadRow:
        if not isinstance(draft, _Drafted):
            return draft
        if draft.special is not None:
            try:
                ids, offsets = draft.special.encode(draft.text)
            except BadRow as bad:
                return bad
            mask = mask_by_offsets(offsets, without_marks(draft.text, draft.spans))
            return self._truncated(array("i", ids), mask, draft)
        assert tokens is not None
        return self._truncated(*self._masked(draft, tokens), draft)

    def _is_spelled(self, draft: _Drafted) -> bool:
        """Whether a row's mask can do without the tokenizer's offsets."""
        if draft.spans is None:
            return True
        return self._spelled is not None and not (draft.with_special_tokens and self._adds_tokens)

    def _masked(self, draft: _Drafted, tokens: array[int] | Encoding) -> tuple[array[int], bytearray]:
        ids = array("i", tokens.ids) if isinstance(tokens, Encoding) else tokens
        if draft.spans is None:
            return ids, bytearray(b"\x01") * len(ids)
        if not isinstance(tokens, Encoding):
            assert self._spelled is not None
            mask = self._spelled.mask(ids, draft.text, draft.spans)
            if mask is not None:
                return ids, mask
            tokens = self.tokenizer.encode(draft.text, add_special_tokens=draft.with_special_tokens)
        return ids, mask_of(tokens, len(ids), draft.spans, len(draft.text))

    def _finish_tokens(self, sample: Tokens) -> Encoded | BadRow:
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        if sample.input_ids and max(sample.input_ids) >= size:
            raise BadRow(
                f"input_ids holds {max(sample.input_ids)}, and the vocabulary has {size} tokens",
                "tokenize the set with this model's tokenizer",
                reason="token outside the vocabulary",
                malformed=True,
            )
        if any(
            label not in (-100, token) for token, label in zip(sample.input_ids, sample.labels, strict=True)
        ):
            raise BadRow(
                "labels are neither -100 nor the row's own tokens",
                "give the token itself as the label, or -100 where there is no loss",
                reason="labels of other tokens",
                malformed=True,
            )
        mask = bytearray(label != -100 for label in sample.labels)
        return self._truncated(array("i", sample.input_ids), mask, _Drafted("", None, "the row's own labels"))

    def _truncated(self, ids: array[int], mask: bytearray, draft: _Drafted) -> Encoded | BadRow:
        length, limit = len(ids), self.settings.max_length
        answer: Answer = "whole"
        digest = int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")
        trained = mask.count(1)
        if not trained:
            return BadRow(
                "no token of the row carries loss",
                "give the row an answer, or change what is trained (assistant_only_loss, completion_only_loss)",
                reason="nothing to learn",
                malformed=False,
            )
        if limit is not None and length > limit:
            kept = (
                slice(None, limit) if self.settings.truncation_mode == "keep_start" else slice(-limit, None)
            )
            ids, mask = ids[kept], mask[kept]
            left = mask.count(1)
            answer = "whole" if left == trained else "cut" if left else "lost"
        return Encoded(
            ids,
            mask,
            length,
            length - len(ids),
            answer,
            digest,
            draft.how,
            draft.special is not None,
            draft.differs,
        )
