"""LLaVA on Mistral: the model class of llava-v1.6-mistral-7b, under the name that the original gave its module."""

from __future__ import annotations

from llava.model.language_model.decoders import llava_class

LlavaMistralForCausalLM = llava_class("mistral")
LlavaMistralConfig = LlavaMistralForCausalLM.config_class
