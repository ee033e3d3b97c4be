"""The keys that LLaVA's releases write into `config.json` beside those of the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava.template_choice import release_of

if TYPE_CHECKING:
    from transformers.models.llama.configuration_llama import LlamaConfig as _AnyConfig
else:
    _AnyConfig = object  # the decoder's own stands behind the keys in the bases of each class


@dataclass(eq=False, repr=False, kw_only=True)
class LlavaConfigKeys(_AnyConfig):
    """Adds LLaVA's keys to the config of any language model.

    None stands for a key that the file does not have. Releases differ in what its absence means; the properties below
    interpret it.
    """

    mm_vision_tower: str | None = None
    use_mm_proj: bool | None = None
    mm_hidden_size: int | None = None
    mm_projector_type: str | None = None
    mm_projector_bias: bool | None = None
    mm_vision_select_layer: int | list | None = None
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
    chat_template: str | None = None
    im_patch_token: int | None = None

    @property
    def has_vision(self) -> bool:
        """Whether the checkpoint has a projector: the original tests whether the key exists, not its value."""
        return self.mm_vision_tower is not None or bool(self.use_mm_proj)

    @property
    def uses_patch_runs(self) -> bool:
        """Whether prompts hold a run of `<im_patch>` for each image, as in v0; later releases have a single marker."""
        return release_of(self) == "v0"
