"""How the parameters of an `Electra` are split over the axes `fsdp` and `tensor` of a mesh.

Over `tensor` as in Megatron-LM (Shoeybi et al., 2019): queries, keys and values by heads, the feed-forward layer by its
width and the words by number, so that a layer adds up over the devices twice. Over `fsdp` the other axis of each matrix
is split, to store it: a device gathers what it computes with (Zhao et al., PyTorch FSDP, 2023). What is small is whole.

A network with fewer heads than `tensor` has devices is split inside its heads: right, and slower. The 30,522 words
of BERT's vocabulary fall in equal parts on 2, 3 or 6 devices; by any other number they are not split over `tensor`.
"""

from jax.sharding import PartitionSpec

# End of a parameter's path, from one of its names on, and the mesh axis of each of its dimensions. The first of a
# layer's is the number of the layer.
RULES = {
    "(query|key|value|intermediate)/kernel": PartitionSpec(None, "fsdp", "tensor"),
    "(query|key|value|intermediate)/bias": PartitionSpec(None, "tensor"),
    "output/kernel": PartitionSpec(None, "tensor", "fsdp"),
    "word/embedding": PartitionSpec("tensor", "fsdp"),
    "(generator|discriminator)_head/bias": PartitionSpec("tensor"),
    "(position|token_type)/embedding": PartitionSpec(None, "fsdp"),
    "(embeddings_project|dense)/kernel": PartitionSpec("fsdp"),
    "(prediction|copy_head)/kernel": PartitionSpec(),
    "(output|embeddings_project|dense|prediction|copy_head)/bias": PartitionSpec(),
    "(attention_)?layer_norm/(scale|bias)": PartitionSpec(),
}
