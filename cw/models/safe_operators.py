"""The operators that a program may use which nobody has vouched for, and how they may be called.

A line stands here only if the operator computes its result from its arguments alone: it writes to
none of them, draws no random numbers, opens no file, reads no memory that it did not write, and
its result's shape follows from shapes. So there is no ``relu_`` (writes in place), ``empty``
(shows what another model left behind), ``as_strided`` (looks beside its tensor), ``item`` or
``nonzero`` (shapes that depend on values), ``index_put`` or ``from_file``.

``safe_graph.py`` refuses the rest by name; ``devices/safe_program.py`` resolves these in torch.
"""

from types import MappingProxyType
from typing import Final

SAFE_OPERATORS: Final = frozenset(
    f"torch.ops.aten.{name}"
    for name in """
    abs.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
    adaptive_max_pool2d.default add.Scalar add.Tensor addmm.default all.dim amax.default
    amin.default any.dim arange.default arange.start arange.start_step argmax.default
    argmin.default avg_pool1d.default avg_pool2d.default baddbmm.default batch_norm.default
    bitwise_and.Tensor bitwise_not.default bitwise_or.Tensor bmm.default cat.default ceil.default
    channel_shuffle.default chunk.default clamp.Tensor clamp.default clamp_max.default
    clamp_min.default clone.default constant_pad_nd.default contiguous.default conv1d.default
    conv1d.padding conv2d.default conv2d.padding conv_transpose1d.default conv_transpose2d.input
    cos.default cumsum.default detach.default div.Scalar div.Tensor div.Tensor_mode
    dropout.default elu.default embedding.default eq.Scalar eq.Tensor erf.default exp.default
    expand.default expand_as.default expm1.default flatten.using_ints flip.default floor.default
    floor_divide.default full.default full_like.default gather.default ge.Scalar ge.Tensor
    gelu.default group_norm.default gt.Scalar gt.Tensor hardsigmoid.default hardswish.default
    hardtanh.default index_select.default isnan.default layer_norm.default le.Scalar le.Tensor
    leaky_relu.default lift_fresh_copy.default linalg_vector_norm.default linear.default
    log.default log1p.default log2.default log_softmax.int logical_and.default logical_not.default
    logical_or.default logsumexp.default lt.Scalar lt.Tensor masked_fill.Scalar matmul.default
    max.dim max_pool1d.default max_pool2d.default maximum.default mean.default mean.dim min.dim
    minimum.default mish.default mm.default movedim.int mul.Scalar mul.Tensor ne.Scalar ne.Tensor
    neg.default new_full.default new_ones.default new_zeros.default norm.ScalarOpt_dim
    ones.default ones_like.default pad.default permute.default pixel_shuffle.default
    pixel_unshuffle.default pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor prelu.default
    reciprocal.default relu.default relu6.default remainder.Scalar repeat.default reshape.default
    rms_norm.default roll.default round.default rsqrt.default rsub.Scalar scalar_tensor.default
    scaled_dot_product_attention.default select.int selu.default sigmoid.default sign.default
    silu.default sin.default slice.Tensor softmax.int softplus.default split.Tensor split.sizes
    split_with_sizes.default sqrt.default square.default squeeze.default squeeze.dim squeeze.dims
    stack.default std.correction sub.Scalar sub.Tensor sum.default sum.dim_IntList sym_size.int
    t.default tan.default tanh.default to.dtype topk.default transpose.int tril.default
    triu.default type_as.default unbind.int unflatten.int unsqueeze.default
    upsample_bilinear2d.vec upsample_nearest2d.vec var.correction view.default where.self
    zeros.default zeros_like.default
    """.split()  # noqa: SIM905 (quoted, 160 names are a page of quotes)
)
"""As a graph's JSON names them."""

SAFE_ARITHMETIC: Final = MappingProxyType(
    {f"_operator.{name}": name for name in ("add", "sub", "mul", "floordiv")}
)
"""On sizes. The numbers are bounded, and checked at each of the model's batch sizes."""

FIXED_ARGUMENTS: Final = MappingProxyType(
    {
        "train": (False, 0),
        "training": (False, 0),
        "dropout_p": (0.0, 0),
        "pin_memory": (None, False),
        "non_blocking": (False,),
    }
)
"""Arguments, by their name in the operator's schema, that may only have these values: others make
an operator draw random numbers, write to its weights, or take memory of another kind."""

DATATYPE_CODES: Final = MappingProxyType(
    {
        1: "uint8",
        2: "int8",
        3: "int16",
        4: "int32",
        5: "int64",
        6: "float16",
        7: "float32",
        8: "float64",
        12: "bool",
        13: "bfloat16",
    }
)
"""torch's ScalarType, serialised -> its name. Source: ``torch/_export/serde/schema.py``, 8."""

MEMORY_FORMAT_CODES: Final = MappingProxyType(
    {1: "contiguous_format", 2: "channels_last", 4: "preserve_format"}
)
"""torch's serialised MemoryFormat -> its name. Source: as above."""
