"""LLaVA on LLaMA: the model class of every released LLaVA checkpoint on LLaMA and Vicuna.

Parameter names are the original's (`model.layers.*`, `model.mm_projector.*`, `lm_head`), so its checkpoints, deltas and
FSDP wrap names work as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel, LlamaPreTrainedModel

from llava.constants import IGNORE_INDEX
from llava.errors import InvalidRequest
from llava.model.llava_arch import Images, LlavaMetaForCausalLM, LlavaMetaModel
from llava.model.weights.names import TOWER_PREFIX
from llava.model.weights.reader import OWN_TOWER
from llava.template_choice import release_of

_CACHE: Final = "cache" if "cache" in signature(LlamaModel.forward).parameters else "past_key_values"
"""transformers' name of the keys and values of earlier tokens: `past_key_values` up to 5.23, `cache` since 5.24."""


class LlavaConfig(LlamaConfig):
    """A LLaMA config with the keys that LLaVA's releases write into `config.json`.

    None stands for a key that the file does not have. Releases differ in what its absence means; the properties below
    interpret it.
    """

    model_type = "llava_llama"

    mm_vision_tower: str | None = None
    use_mm_proj: bool | None = None
    mm_hidden_size: int | None = None
    mm_projector_type: str | None = None
    mm_vision_select_layer: int | None = None
    mm_vision_select_feature: str | None = None
    mm_patch_merge_type: str | None = None
    mm_use_im_start_end: bool | None = None
    mm_use_im_patch_token: bool | None = None
    image_aspect_ratio: str | None = None
    image_grid_pinpoints: list | str | None = None
    unfreeze_mm_vision_tower: bool | None = None
    tokenizer_padding_side: str | None = None
    tokenizer_model_max_length: int | None = None
    conv_mode: str | None = None
    im_patch_token: int | None = None

    @property
    def has_vision(self) -> bool:
        """Whether the checkpoint has a projector: the original tests whether the key exists, not its value."""
        return self.mm_vision_tower is not None or bool(self.use_mm_proj)

    @property
    def uses_patch_runs(self) -> bool:
        """Whether prompts hold a run of `<im_patch>` for each image, as in v0; later releases have a single marker."""
        return release_of(self) == "v0"


class LlavaLlamaModel(LlavaMetaModel, LlamaModel):
    """The decoder with the projector and, once it is attached, the vision tower."""

    config_class = LlavaConfig

    def __init__(self, config: LlavaConfig):
        super().__init__(config)
        self.build_vision_modules()


class LlavaLlamaForCausalLM(LlavaMetaForCausalLM, LlamaForCausalLM):
    """LLaVA on LLaMA: takes token ids and images, and gives logits, losses and generated ids."""

    config_class = LlavaConfig
    # The tower's own folder holds its weights; `save_pretrained` adds them only if they were trained.
    _keys_to_ignore_on_load_missing = [r"model\.vision_tower\."]  # noqa: RUF012, as the base class declares it
    _keys_to_ignore_on_load_unexpected = [r"model\.vision_tower\.", r"rotary_emb\.inv_freq"]  # noqa: RUF012

    def __init__(self, config: LlavaConfig):
        # LlamaForCausalLM's own __init__ would build the decoder a second time.
        LlamaPreTrainedModel.__init__(self, config)
        self.model = LlavaLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

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

        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **({} if past_key_values is None else {_CACHE: past_key_values}),
            **({} if cache is None else {"cache": cache}),
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        logits = loss = None
        if labels is not None and self.training:
            loss = supervised_loss(hidden, labels, self.lm_head, num_items_in_batch)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
            logits = self.lm_head(hidden[:, logits_to_keep if isinstance(logits_to_keep, Tensor) else kept])
            if labels is not None:
                loss = supervised_loss(hidden, labels, self.lm_head, num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{_CACHE: getattr(outputs, _CACHE)},
        )

    def _embed_without_images(self, input_ids: Tensor) -> Tensor:
        """Embeds text and adds zero times what trains for images, so that every process has its gradient to reduce."""
        # In a batch with images, these are computed before the embedding. DeepSpeed needs the same order in all
        # processes, because it adds up gradients in the order in which they become ready.
        nothing = self._zero_of_images()
        embeds = self.get_input_embeddings()(input_ids)
        return embeds if nothing is None else embeds + nothing.to(embeds)

    def _zero_of_images(self) -> Tensor | None:
        """Returns 0, computed with all parameters that images pass through; None if these are frozen."""
        tower = self.model._modules.get("vision_tower")
        weight = next(self.model.mm_projector.parameters(), None)
        newline = getattr(self.model, "image_newline", None)
        if tower is not None and any(parameter.requires_grad for parameter in tower.parameters()):
            size = tower.config.image_size
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
        state_dict = kept
        super().save_pretrained(save_directory, is_main_process, state_dict=state_dict, **kwargs)


def _holds_prompt(*caches: Any) -> bool:
    """Whether a cache holds the prompt already, so that no image marker follows.

    Generated ids are never markers, and for a paged cache the engine has replaced the markers by virtual ids.
    """
    return any(not isinstance(cache, Cache) or cache.get_seq_length() > 0 for cache in caches if cache is not None)


def supervised_loss(
    hidden: Tensor, labels: Tensor, lm_head: nn.Module, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Computes the next-token cross entropy of supervised positions, and no logits of any other.

    Most of a LLaVA row is image and instruction. Skipping those positions gives the same loss and gradient for a
    fraction of the memory and time (a row of 420 tokens with 100 supervised ones: 4.2 times less memory for logits).

    Args:
        hidden: last hidden states, [rows, length, hidden].
        labels: [rows, length], int64, not shifted; `IGNORE_INDEX` is not supervised.
        lm_head: output embedding, hidden -> vocabulary.
        num_items_in_batch: supervised tokens to divide the sum by (of the whole optimizer step); None takes the mean
            over those of this batch.

    Returns:
        A float32 scalar. Without supervised positions it is zero, but still a function of `hidden`.
    """
    shifted = labels[:, 1:].to(hidden.device)
    supervised = shifted != IGNORE_INDEX
    logits = lm_head(hidden[:, :-1][supervised]).float()
    loss = nn.functional.cross_entropy(logits, shifted[supervised], reduction="sum")
    count = supervised.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return loss / count.to(loss.device).clamp(min=1)


AutoConfig.register(LlavaConfig.model_type, LlavaConfig)
AutoModelForCausalLM.register(LlavaConfig, LlavaLlamaForCausalLM)
