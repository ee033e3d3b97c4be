"""Makes a causal language model of transformers a LLaVA: its forward, `generate` and `save_pretrained` take images.

`LlavaCausalLM` is a mixin in front of the causal class of a decoder, such as `LlamaForCausalLM`. Whatever that class
does behind its layers (soft caps, multipliers of the logits, losses of a router) is done by its own code, so that a
LLaVA on any decoder equals what transformers makes of the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaModel

from llava.constants import IGNORE_INDEX
from llava.errors import InvalidRequest
from llava.model.llava_arch import Images, LlavaMetaForCausalLM
from llava.model.weights.names import TOWER_PREFIX
from llava.model.weights.reader import OWN_TOWER

if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaForCausalLM as _AnyCausalClass
else:
    _AnyCausalClass = object  # the real one stands behind the mixin in the bases of each class

_CACHE: Final = "cache" if "cache" in signature(LlamaModel.forward).parameters else "past_key_values"
"""transformers' name of the keys and values of earlier tokens: `past_key_values` up to 5.23, `cache` since 5.24."""


class LlavaCausalLM(LlavaMetaForCausalLM, _AnyCausalClass):
    """Takes token ids and images, and gives logits, losses and generated ids. Stands before a decoder's causal class in
    the bases of a class."""

    causal_class: ClassVar[Any]
    """The causal class of transformers, `LlamaForCausalLM` and the like."""
    decoder_class: ClassVar[Any]
    """The class of `model`: the decoder of the causal class as a `LlavaMetaModel`."""

    # The tower's own folder holds its weights; `save_pretrained` adds them only if they were trained.
    _keys_to_ignore_on_load_missing = [r"model\.vision_tower\."]  # noqa: RUF012, as transformers declares it
    _keys_to_ignore_on_load_unexpected = [r"model\.vision_tower\.", r"rotary_emb\.inv_freq"]  # noqa: RUF012

    def __init__(self, config: Any):
        super().__init__(config)
        # The causal class has built its decoder, which becomes a `LlavaMetaModel` rather than being built again.
        self.model.__class__ = self.decoder_class
        self.model.build_vision_modules()
        self.post_init()  # initialises what is new, and only that

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Runs the model on text and images.

        Args:
            input_ids: [rows, length], int64, with runs of `<im_patch>` or `IMAGE_TOKEN_INDEX` where images go.
            labels: [rows, length]; the values at images do not matter, because images are never supervised.
            images: as `llava.model.llava_arch.Images`, in reading order over the rows.
            image_sizes: (width, height) of each original image, for models that cut images into tiles.
            num_items_in_batch: supervised tokens of the whole optimizer step; the loss is divided by it, so that
                gradient accumulation equals one large batch.
            cache: the paged cache of the batching manager; since transformers 5.24 also its name for `past_key_values`.

        Returns:
            `loss` (float32) if labels are given. In training, `logits` is None, because only supervised positions pass
            through the output embedding. Otherwise logits [rows, length, vocabulary], limited by `logits_to_keep`.

        Raises:
            ImageTokenMismatch: markers and images do not match, row by row.
        """
        if input_ids is not None and inputs_embeds is None and not _holds_prompt(cache, past_key_values):
            if images is not None and len(images):
                spliced = self.splice_images(input_ids, attention_mask, labels, images, image_sizes)
                inputs_embeds, input_ids = spliced.inputs_embeds, None
                attention_mask, position_ids, labels = spliced.attention_mask, spliced.position_ids, spliced.labels
            else:
                self.refuse_markers(input_ids)
                if self.training and self.config.has_vision:
                    inputs_embeds, input_ids = self._embed_without_images(input_ids), None

        decoder_inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
            **({} if past_key_values is None else {_CACHE: past_key_values}),
            **({} if cache is None else {"cache": cache}),
            **kwargs,
        }
        if labels is None:
            return super().forward(**decoder_inputs, logits_to_keep=logits_to_keep)
        outputs = self.model(**decoder_inputs)
        loss = self._loss(outputs, labels, attention_mask, num_items_in_batch)
        logits = None
        if not self.training:
            logits = self._after_layers(outputs, logits_to_keep=logits_to_keep).logits
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{_CACHE: getattr(outputs, _CACHE)},
        )

    def _loss(
        self, outputs: Any, labels: Tensor, attention_mask: Tensor | None, num_items_in_batch: Tensor | int | None
    ) -> Tensor:
        """Computes the next-token cross entropy of supervised positions, and no logits of any other.

        Most of a LLaVA row is image and instruction. Skipping those positions gives the same loss and gradient for a
        fraction of the memory and time (a row of 420 tokens with 100 supervised ones: 4.2 times less memory for
        logits).

        Args:
            outputs: what the decoder gave for the whole rows.
            labels: [rows, length], int64, not shifted; `IGNORE_INDEX` is not supervised.
            num_items_in_batch: supervised tokens to divide the sum by (of the whole optimizer step); None takes the
                mean over those of this batch.

        Returns:
            A float32 scalar, with the loss of a router if the decoder computes one. Without supervised positions it is
            zero, but still a function of the hidden states.
        """
        hidden = outputs.last_hidden_state
        shifted = labels[:, 1:].to(hidden.device)
        supervised = shifted != IGNORE_INDEX
        ended = self._after_layers(outputs, hidden[:, :-1][supervised][None], attention_mask=attention_mask)
        targets = shifted[supervised]
        loss = nn.functional.cross_entropy(ended.logits[0].float(), targets, reduction="sum")
        count = supervised.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = loss / count.to(loss.device).clamp(min=1)
        balance = getattr(ended, "aux_loss", None)
        return loss if balance is None else loss + self.router_aux_loss_coef * balance.to(loss)

    def _after_layers(self, outputs: Any, hidden: Tensor | None = None, **kwargs: Any) -> Any:
        """Runs what the causal class does behind its decoder, on hidden states that the decoder has computed.

        Args:
            outputs: what the decoder gave.
            hidden: hidden states in place of those of `outputs`.
        """
        return self.causal_class.forward(_AfterDecoder(self, outputs, hidden), use_cache=False, **kwargs)

    def _embed_without_images(self, input_ids: Tensor) -> Tensor:
        """Embeds text and adds zero times what trains for images, so that every process has its gradient to reduce."""
        # In a batch with images, these are computed before the embedding. DeepSpeed needs the same order in all
        # processes, because it adds up gradients in the order in which they become ready.
        nothing = self._zero_of_images()
        embeds = self.get_input_embeddings()(input_ids)
        return embeds if nothing is None else embeds + nothing.to(embeds)

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Sets the attention function of the language model. The tower keeps its own: what serves the one in batches
        means nothing to the other, and convolutional towers have none."""
        modules = self.model._modules
        tower = modules.pop("vision_tower", None)
        try:
            super().set_attn_implementation(*args, **kwargs)
        finally:
            if tower is not None:
                modules["vision_tower"] = tower

    def _zero_of_images(self) -> Tensor | None:
        """Returns 0, computed with all parameters that images pass through; None if these are frozen."""
        tower = self.model._modules.get("vision_tower")
        weight = next(self.model.mm_projector.parameters(), None)
        newline = getattr(self.model, "image_newline", None)
        if tower is not None and any(parameter.requires_grad for parameter in tower.parameters()):
            size = tower.image_size
            features = self.encode_images(next(tower.parameters()).new_zeros(1, 3, size, size))[0]
        elif weight is not None and weight.requires_grad:
            features = self.model.mm_projector(weight.new_zeros(1, self.config.mm_hidden_size))
        elif newline is not None and newline.requires_grad:
            return 0.0 * newline.sum()
        else:
            return None
        return 0.0 * (features if newline is None else features + newline.to(features)).sum()

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generates a continuation of prompts with or without images.

        Args:
            inputs: prompt ids, [rows, length], as for `forward` (`input_ids=` is the same). Pass `attention_mask` for
                rows of different lengths; rows may be padded on either side.
            images, image_sizes: as for `forward`.
            **kwargs: every other argument of transformers' `generate` (streamer, beams, stopping criteria ...).

        Returns:
            What transformers' `generate` returns. Sequences hold the **new** tokens only, as in LLaVA 1.2 and later,
            with and without images.

        Raises:
            ImageTokenMismatch: markers and images do not match, row by row.
            InvalidRequest: both `inputs` and `inputs_embeds` given.
        """
        inputs = inputs if inputs is not None else kwargs.pop("input_ids", None)
        if inputs is None:
            return super().generate(**kwargs)  # type: ignore[misc]
        if kwargs.get("inputs_embeds") is not None:
            raise InvalidRequest("generate takes prompt ids or inputs_embeds, not both.")
        spliced = self.splice_images(
            inputs, kwargs.pop("attention_mask", None), None, images, image_sizes, padding_side="left"
        )
        kwargs.pop("position_ids", None)
        return super().generate(  # type: ignore[misc]
            inputs_embeds=spliced.inputs_embeds, attention_mask=spliced.attention_mask, **kwargs
        )

    def save_pretrained(  # type: ignore[override]  # all other arguments are passed on by keyword
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves the model in the original's names. A frozen tower stays in its own folder. A tower that was trained is
        saved with the model, and the folder `vision_tower` inside describes it."""
        if state_dict is None:
            state_dict = self.state_dict()
        tower = getattr(self.model, "vision_tower", None)
        kept = {name: value for name, value in state_dict.items() if not name.startswith(TOWER_PREFIX)}
        if self.config.unfreeze_mm_vision_tower and tower is not None:
            tower.describe(Path(save_directory) / OWN_TOWER)
            trained = {name.removeprefix(TOWER_PREFIX): state_dict[name] for name in state_dict.keys() - kept.keys()}
            # A tower that an earlier run trained is not in the module tree while it is frozen.
            for name, value in (trained or tower.state_dict()).items():
                kept[TOWER_PREFIX + tower.original_name(name)] = value
        super().save_pretrained(save_directory, is_main_process, state_dict=kept, **kwargs)


class _AfterDecoder:
    """Stands in for a causal model whose decoder has run, so that its class's `forward` does only what follows."""

    def __init__(self, model: Any, outputs: Any, hidden: Tensor | None):
        self._causal = model
        self._outputs = outputs
        self._hidden = hidden

    def model(self, **_: Any) -> Any:
        if self._hidden is None:
            return self._outputs
        # A shallow copy of the same kind, with everything else that the class may read, such as a router's logits.
        return type(self._outputs)(**{**self._outputs, "last_hidden_state": self._hidden})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._causal, name)


def _holds_prompt(*caches: Any) -> bool:
    """Whether a cache holds the prompt already, so that no image marker follows.

    Generated ids are never markers, and for a paged cache the engine has replaced the markers by virtual ids.
    """
    return any(not isinstance(cache, Cache) or cache.get_seq_length() > 0 for cache in caches if cache is not None)
