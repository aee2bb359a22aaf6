"""Tiny configurations of the architectures in transformers: what each does beyond causal attention is switched on."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig

VOCABULARY = 128
WINDOW = 16
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 96,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen2_window": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "qwen2_moe": (
        "qwen2_moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
            "output_router_logits": True,
        },
    ),
    "qwen3_moe": (
        "qwen3_moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
        },
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "mistral_nowindow": ("mistral", {"sliding_window": None}),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "ministral": ("ministral", {"sliding_window": WINDOW}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"sliding_window": WINDOW, "query_pre_attn_scalar": 32}),
    "gemma2_nocap": (
        "gemma2",
        {
            "sliding_window": 512,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
    ),
    "gemma2_attncap": (
        "gemma2",
        {
            "sliding_window": 512,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": None,
        },
    ),
    "gemma2_finalcap": (
        "gemma2",
        {
            "sliding_window": 512,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": 30.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {"sliding_window": WINDOW, "query_pre_attn_scalar": 32, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma3_nowindow": (
        "gemma3_text",
        {"sliding_window": 512, "query_pre_attn_scalar": 32, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"sliding_window": WINDOW}),
    "phi3_nowindow": ("phi3", {"sliding_window": None}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "smollm3_window": (
        "smollm3",
        {
            "no_rope_layers": [1, 0],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gpt2": (
        "gpt2",
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 512,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "gpt2_dropout": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512}),
    "gpt_neo": (
        "gpt_neo",
        {
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
            "attention_dropout": 0.0,
            "embed_dropout": 0.0,
            "resid_dropout": 0.0,
        },
    ),
    "gpt_neox": ("gpt_neox", {"hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "gptj": (
        "gptj",
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 512,
            "rotary_dim": 16,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "tie_word_embeddings": False,
        },
    ),
    "codegen": (
        "codegen",
        {
            "n_embd": 128,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 512,
            "rotary_dim": 16,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "tie_word_embeddings": False,
        },
    ),
    "gpt_bigcode": (
        "gpt_bigcode",
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 512,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "opt": ("opt", {"ffn_dim": 96, "dropout": 0.0, "word_embed_proj_dim": 32}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "mpt": ("mpt", {"d_model": 64, "n_heads": 2, "n_layers": 2, "max_seq_len": 512}),
    "falcon": (
        "falcon",
        {
            "_drop": ("head_dim", "num_key_value_heads"),
            "alibi": False,
            "new_decoder_architecture": False,
            "multi_query": True,
        },
    ),
    "falcon_alibi": (
        "falcon",
        {
            "_drop": ("head_dim", "num_key_value_heads"),
            "alibi": True,
            "new_decoder_architecture": False,
            "multi_query": False,
        },
    ),
    "granite": (
        "granite",
        {
            "logits_scaling": 8.0,
            "attention_multiplier": 0.02,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
        },
    ),
    "granite_noscale": ("granite", {"logits_scaling": 1.0}),
    "cohere": ("cohere", {"logit_scale": 0.0625}),
    "cohere2": (
        "cohere2",
        {"logit_scale": 0.0625, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "stablelm": ("stablelm", {}),
    "starcoder2": ("starcoder2", {"sliding_window": WINDOW, "residual_dropout": 0.0, "embedding_dropout": 0.0}),
    "glm": ("glm", {}),
    "glm4": ("glm4", {}),
    "persimmon": ("persimmon", {}),
    "helium": ("helium", {}),
    "arcee": ("arcee", {}),
    "seed_oss": ("seed_oss", {}),
    "exaone4": ("exaone4", {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "nanochat": ("nanochat", {}),
    "apertus": ("apertus", {}),
    "nemotron": ("nemotron", {}),
    "minicpm3": (
        "minicpm3",
        {
            "_drop": ("head_dim",),
            "num_key_value_heads": 2,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
        },
    ),
    "hyperclovax": ("hyperclovax", {"logits_scaling": 4.0}),
    "deepseek_v3": (
        "deepseek_v3",
        {
            "_drop": ("head_dim",),
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 32,
            "q_lora_rank": 32,
            "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 32,
            "v_head_dim": 32,
            "n_group": 1,
            "topk_group": 1,
            "num_key_value_heads": 2,
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gpt_oss_nowindow": (
        "gpt_oss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "ernie4_5": ("ernie4_5", {}),
    "hunyuan": ("hunyuan_v1_dense", {}),
    "mamba": ("mamba", {"state_size": 16}),
    "mamba2": ("mamba2", {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "chunk_size": 16}),
    "falcon_mamba": ("falcon_mamba", {"state_size": 16}),
    "jamba": (
        "jamba",
        {
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_dt_rank": 8,
        },
    ),
    "bamba": (
        "bamba",
        {
            "attn_layer_indices": [1],
            "mamba_n_heads": 4,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
        },
    ),
    "granitemoehybrid": (
        "granitemoehybrid",
        {
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 4,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
            "num_local_experts": 0,
            "shared_intermediate_size": 96,
            "logits_scaling": 1.0,
        },
    ),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "qwen3_next": (
        "qwen3_next",
        {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
    ),
    "qwen3_5_text": (
        "qwen3_5_text",
        {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
        },
    ),
    "falcon_h1": (
        "falcon_h1",
        {
            "mamba_d_ssm": 64,
            "mamba_n_heads": 2,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
            "lm_head_multiplier": 0.1,
        },
    ),
    "recurrent_gemma": (
        "recurrent_gemma",
        {"attention_window_size": WINDOW, "block_types": ["recurrent", "attention"], "lru_width": 64},
    ),
    "rwkv": ("rwkv", {"attention_hidden_size": 64}),
    "zamba2": (
        "zamba2",
        {
            "layer_types": ["mamba", "hybrid"],
            "num_mem_blocks": 1,
            "mamba_d_state": 16,
            "n_mamba_heads": 4,
            "mamba_ngroups": 1,
            "chunk_size": 16,
            "adapter_rank": 8,
        },
    ),
    "dbrx": ("dbrx", {"d_model": 64, "n_heads": 2, "n_layers": 2, "max_seq_len": 512}),
    "modernbert_decoder": ("modernbert-decoder", {"_drop": ("bos_token_id",), "local_attention": WINDOW}),
    "biogpt": ("biogpt", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "xglm": (
        "xglm",
        {"d_model": 64, "num_layers": 2, "attention_heads": 2, "ffn_dim": 96, "dropout": 0.0, "attention_dropout": 0.0},
    ),
    "ctrl": (
        "ctrl",
        {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512, "dff": 96, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    ),
    "openai_gpt": (
        "openai-gpt",
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 512,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "gemma3n": (
        "gemma3n_text",
        {
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "laurel_rank": 8,
            "activation_sparsity_pattern": None,
            "intermediate_size": [96, 96],
        },
    ),
    "llama4_text": (
        "llama4_text",
        {
            "num_local_experts": 2,
            "intermediate_size_mlp": 96,
            "attention_chunk_size": WINDOW,
            "no_rope_layers": [1, 0],
            "layer_types": ["chunked_attention", "full_attention"],
            "interleave_moe_layer_step": 1,
        },
    ),
    "bitnet": ("bitnet", {}),
    "llama_bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_tied": ("llama", {"tie_word_embeddings": True}),
    "llama_rope_yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "rope_theta": 10000.0,
            }
        },
    ),
    "llama_rope_dynamic": (
        "llama",
        {
            "max_position_embeddings": 32,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        },
    ),
    "phi3_longrope": (
        "phi3",
        {
            "sliding_window": None,
            "max_position_embeddings": 512,
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
                "long_factor": [
                    2.0,
                    2.3,
                    2.6,
                    2.9,
                    3.2,
                    3.5,
                    3.8,
                    4.1,
                    4.4,
                    4.699999999999999,
                    5.0,
                    5.3,
                    5.6,
                    5.9,
                    6.2,
                    6.5,
                ],
                "original_max_position_embeddings": 32,
            },
        },
    ),
}
"""Name → (model type, attributes beside `SIZES`; those in `_drop` are left at the architecture's default)."""


def make_config(name: str) -> PretrainedConfig:
    """The tiny configuration of one architecture."""
    kind, extra = ARCHITECTURES[name]
    dropped = extra.get("_drop", ())
    values = {key: value for key, value in {**SIZES, **extra}.items() if key != "_drop" and key not in dropped}
    config: PretrainedConfig = AutoConfig.for_model(kind, **values)
    return config
