"""An embedded checkpoint as a GGUF file, which is all that llama.cpp reads.

Run by the environment of the server, which has `gguf`: `python gguf_file.py FOLDER FILE`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def convert(folder: Path, file: Path) -> None:
    """Write a Llama checkpoint of transformers as GGUF in fp32."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, folder, config)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "q_proj" in name:
            tensor = interleaved(tensor, heads)
        if "k_proj" in name:
            tensor = interleaved(tensor, kv_heads)
        writer.add_tensor(named(name), tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, int]) -> None:
    """The vocabulary. Its own way to cut words has no name there; the nearest that has one must do."""
    stored = json.loads((folder / "tokenizer.json").read_text())
    added = {token["id"]: token for token in stored["added_tokens"]}
    words = {number: word for word, number in stored["model"]["vocab"].items()}
    words |= {number: token["content"] for number, token in added.items()}
    kinds = []
    for number in range(len(words)):
        special = number in added and added[number]["special"]
        own = gguf.TokenType.USER_DEFINED if number in added else gguf.TokenType.NORMAL
        kinds.append(gguf.TokenType.CONTROL if special else own)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([words[number] for number in range(len(words))])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in stored["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    if config["bos_token_id"] is not None:
        writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)


def interleaved(tensor: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring pairs where transformers rotates halves."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def named(name: str) -> str:
    """A tensor's name in GGUF."""
    stem, kind = name.rsplit(".", 1)
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
