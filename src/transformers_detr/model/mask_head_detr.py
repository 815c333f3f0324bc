"""Mask head: attention of each decoded query over the memory, and from it a mask at the finest feature map's size.

A few queries run at a time. Terms shared by all queries of an image are computed once: convolution is linear, so
the convolution of (image features, attention maps) is the sum of one over the features, which all queries share, and
one over the query's own maps; the same holds where finer features are added.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .cpu_kernels_detr import has_global_hooks, is_ordinary, is_plain
from .initialization_detr import xavier
from .recording_detr import is_recorded
from .resize_detr import sizes_of_real_pixels

NO_MASK = -1e4
"""Mask logit where no mask was computed: its probability is exactly 0, and it is finite in float16 too."""

CONFIDENT = 0.499
"""Score of a confident query: a hair below 0.5, the least default threshold of the post-processing that has one."""

CPU_BYTES = 128 * 2**20
"""Memory for the queries that run at once on a CPU; with more it gets slower, since less of it stays in the cache."""

GPU_BYTES = 2 * 2**30
"""The same on a GPU, and never more than half of its free memory."""

LIVE_COPIES = 4
"""Results of a layer that are alive together: the two that are summed, the sum, the norm."""


class DetrAttentionMaps(nn.Module):
    """Attention maps of queries over the memory: no values, one softmax over all heads and cells.

    Args:
        width: Width `D`.
        num_heads: Heads; they divide `D`.
        xavier_gain: Gain of the initial weights.
    """

    def __init__(self, width: int, num_heads: int, xavier_gain: float = 1.0):
        super().__init__()
        self.num_heads = num_heads
        self.xavier_gain = xavier_gain
        self.scaling = (width // num_heads) ** -0.5
        self.q_linear = nn.Linear(width, width)
        self.k_linear = nn.Linear(width, width)

    def initialize(self) -> None:
        """Xavier uniform."""
        for linear in (self.q_linear, self.k_linear):
            xavier(linear, gain=self.xavier_gain)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            queries: Decoded queries `(B, Q, D)`.
            memory: Encoded feature map `(B, D, h, w)`.
            mask: True where a cell shows the image, `(B, h, w)`; None if no cell is padding.

        Returns:
            `(B, Q, heads, h, w)`; the maps of a query sum to 1.
        """
        query = self.q_linear(queries).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, Q, D / heads)
        key = self.k_linear(memory.flatten(2).transpose(1, 2)).unflatten(2, (self.num_heads, -1))
        key = key.permute(0, 2, 3, 1)  # (B, heads, D / heads, S)
        scores = (query * self.scaling) @ key
        if mask is not None:
            scores = scores.masked_fill(~mask.flatten(1)[:, None, None], torch.finfo(scores.dtype).min)
        maps = scores.transpose(1, 2).flatten(2).softmax(-1)  # (B, Q, heads * S)
        return maps.unflatten(2, (self.num_heads, *memory.shape[2:]))


class DetrMaskHead(GradientCheckpointingLayer):
    """Attention maps of queries to mask logits, with the help of the image's features at four resolutions.

    The names of the layers are those of every stored checkpoint.

    Args:
        width: Width `D`.
        num_heads: Attention maps per query.
        channels: Channels of the backbone's three finest feature maps, coarsest first.
        activation: Activation behind each norm, by its transformers name.

    Raises:
        ValueError: The channels of a layer would not be whole or not fall into groups.
    """

    def __init__(self, width: int, num_heads: int, channels: Sequence[int], activation: str = "relu"):
        super().__init__()
        joined, half, quarter, eighth, sixteenth = _widths(width, num_heads)
        self.lay1, self.gn1 = _convolution(joined, joined), _norm(joined)
        self.lay2, self.gn2 = _convolution(joined, half), _norm(half)
        self.lay3, self.gn3 = _convolution(half, quarter), _norm(quarter)
        self.lay4, self.gn4 = _convolution(quarter, eighth), _norm(eighth)
        self.lay5, self.gn5 = _convolution(eighth, sixteenth), _norm(sixteenth)
        self.out_lay = _convolution(sixteenth, 1)
        self.adapter1 = nn.Conv2d(channels[0], half, kernel_size=1)
        self.adapter2 = nn.Conv2d(channels[1], quarter, kernel_size=1)
        self.adapter3 = nn.Conv2d(channels[2], eighth, kernel_size=1)
        self.activation = ACT2FN[activation]

    def initialize(self) -> None:
        """Kaiming uniform weights of gain 1, no biases."""
        for layer in self.children():
            if isinstance(layer, nn.Conv2d):
                init.kaiming_uniform_(layer.weight, a=1)
                init.zeros_(layer.bias)  # type: ignore[arg-type]  # each has one

    def forward(
        self,
        maps: Tensor,
        image: Tensor,
        projected: Tensor,
        fine: Tensor,
        finer: Tensor,
        finest: Tensor,
        real: Sequence[Tensor] | None = None,
        at_once: int | None = None,
    ) -> Tensor:
        """Masks of some queries of a batch.

        Args:
            maps: Attention maps of each query, `(M, heads, h, w)`.
            image: Index in the batch of the image that each query belongs to, `(M,)`.
            projected: The last feature map at the transformer's width, `(B, D, h, w)`.
            fine: The coarsest of the backbone's three finest feature maps, `(B, channels[0], …)`.
            finer: The one before, `(B, channels[1], …)`.
            finest: The one before, `(B, channels[2], h', w')`.
            real: True where a cell shows the image, `(B, …)` for each of the four: padding is then kept out of the
                masks of the image. None lets it in, as the original does.
            at_once: Queries that run together; bounds the memory. None takes as many as memory allows.

        Returns:
            Mask logits `(M, h', w')`.

        Raises:
            ValueError: `at_once` is below 1.
        """
        if at_once is not None and at_once < 1:
            raise ValueError(f"masks_at_once must be at least 1, got {at_once}")
        features = [projected, fine, finer, finest]
        if real is None:
            return self._in_chunks(maps, image, features, None, at_once)
        if is_recorded():  # a graph cannot follow sizes that only the masks of real cells tell
            return self._in_chunks(maps, image, features, [cells[:, None] for cells in real], at_once)
        return self._image_by_image(maps, image, features, real, at_once)

    def _image_by_image(
        self, maps: Tensor, image: Tensor, features: list[Tensor], real: Sequence[Tensor], at_once: int | None
    ) -> Tensor:
        """Compute `forward` with the padding of each image cut off first, as if it were alone."""
        canvas = real[-1].shape[1:]
        masks = maps.new_full((len(maps), *canvas), NO_MASK)
        sizes = torch.stack([sizes_of_real_pixels(cells) for cells in real], dim=1).tolist()  # (B, 4, 2)
        for index, levels in enumerate(sizes):
            chosen = (image == index).nonzero().squeeze(1)
            cut = [
                level[index : index + 1, :, :height, :width]
                for level, (height, width) in zip(features, levels, strict=True)
            ]
            (height, width), *_, (mask_height, mask_width) = levels
            alone = self._in_chunks(maps[chosen, :, :height, :width], image[chosen], cut, None, at_once)
            alone = functional.pad(alone[:, None], (0, canvas[1] - mask_width, 0, canvas[0] - mask_height))
            masks[chosen] = only_where_real(alone, real[-1][index, None, None]).squeeze(1)
        return masks

    def _in_chunks(
        self, maps: Tensor, image: Tensor, features: list[Tensor], real: list[Tensor] | None, at_once: int | None
    ) -> Tensor:
        """Compute `forward` in chunks; `real` is `(B, 1, …)` for each level of `features`."""
        if not self._can_share(maps):
            return self._unshared(maps, image, features, real, at_once)
        shared = self._shared(features, real)
        if at_once is None and not is_recorded():  # a graph must not depend on memory
            at_once = _queries_at_once(shared)
        if maps.device.type == "cpu":  # its convolutions are faster so
            maps = maps.contiguous(memory_format=torch.channels_last)
            shared = [part.contiguous(memory_format=torch.channels_last) for part in shared]
        chunks = [(maps, image)] if at_once is None else zip(maps.split(at_once), image.split(at_once), strict=True)
        masks = []
        for some_maps, some_images in chunks:
            some_real = None if real is None else [cells[some_images] for cells in real]
            masks.append(self._masks(some_maps, [_of_images(part, some_images) for part in shared], some_real))
        return torch.cat(masks)

    def _can_share(self, maps: Tensor) -> bool:
        """Return whether convolutions may be split into sums, which needs plain layers that nothing observes."""
        layers = (self.lay1, self.lay3, self.lay4, self.lay5)
        if torch.compiler.is_compiling():  # which cannot look for hooks
            return True
        return not has_global_hooks() and all(
            is_plain(layer, nn.Conv2d) and is_ordinary(layer.weight, maps) for layer in layers
        )

    def _unshared(
        self, maps: Tensor, image: Tensor, features: list[Tensor], real: list[Tensor] | None, at_once: int | None
    ) -> Tensor:
        """Compute `_in_chunks` layer by layer, with copies of the image features for each query."""
        adapters = (nn.Identity(), self.adapter1, self.adapter2, self.adapter3)
        added = [adapter(level) for adapter, level in zip(adapters, features, strict=True)]
        if real is not None:
            added = [level * cells for level, cells in zip(added, real, strict=True)]
        later = ((self.lay3, self.gn3), (self.lay4, self.gn4), (self.lay5, self.gn5))
        masks = []
        for some_maps, some_images in zip(maps.split(at_once or 8), image.split(at_once or 8), strict=True):
            some_real = [None] * 4 if real is None else [cells[some_images] for cells in real]
            hidden = torch.cat([added[0][some_images], some_maps], dim=1)
            hidden = self._normed(self.lay1(hidden), self.gn1, some_real[0])
            hidden = self._normed(self.lay2(hidden), self.gn2, some_real[0])
            for (layer, norm), level, cells in zip(later, added[1:], some_real[1:], strict=True):
                enlarged = functional.interpolate(hidden, size=level.shape[2:])
                enlarged = enlarged if cells is None else enlarged * cells
                hidden = self._normed(layer(enlarged + level[some_images]), norm, cells)
            result: Tensor = self.out_lay(hidden)
            masks.append((result if real is None else only_where_real(result, some_real[3])).squeeze(1))  # type: ignore[arg-type]
        return torch.cat(masks)

    def _shared(self, features: list[Tensor], real: list[Tensor] | None) -> list[Tensor]:
        """Terms of the image features in the results of layers 1, 3, 4 and 5, shared by the queries of an image."""
        projected, *finer = features
        adapters = (self.adapter1, self.adapter2, self.adapter3)
        added = [projected, *(adapter(level) for adapter, level in zip(adapters, finer, strict=True))]
        if real is not None:
            added = [level * cells for level, cells in zip(added, real, strict=True)]
        of_features = self.lay1.weight[:, : projected.shape[1]]
        first = functional.conv2d(added[0], of_features, self.lay1.bias, padding=1)
        return [first, self.lay3(added[1]), self.lay4(added[2]), self.lay5(added[3])]

    def _masks(self, maps: Tensor, shared: list[Tensor], real: list[Tensor] | None) -> Tensor:
        """Mask logits `(K, h', w')` of a few queries; the shared terms and the real cells are given for each."""
        cells, *finer_cells = real if real is not None else [None] * 4
        of_maps = self.lay1.weight[:, -maps.shape[1] :]
        hidden = functional.conv2d(maps, of_maps, padding=1) + shared[0]  # (K, D + heads, h, w)
        hidden = self._normed(hidden, self.gn1, cells)
        hidden = self._normed(self.lay2(hidden), self.gn2, cells)  # (K, D / 2, h, w)
        later = ((self.lay3, self.gn3), (self.lay4, self.gn4), (self.lay5, self.gn5))
        for (layer, norm), common, cells in zip(later, shared[1:], finer_cells, strict=True):
            hidden = convolve_enlarged(hidden, layer.weight, common.shape[2:], cells) + common
            hidden = self._normed(hidden, norm, cells)  # (K, D / 4, …), (K, D / 8, …), (K, D / 16, h', w')
        masks: Tensor = self.out_lay(hidden)
        return masks.squeeze(1) if cells is None else only_where_real(masks, cells).squeeze(1)

    def _normed(self, hidden: Tensor, norm: nn.GroupNorm, real: Tensor | None) -> Tensor:
        """Norm and activation; if not all cells are real, the norm of the real ones, and zero elsewhere."""
        if real is not None:
            return self.activation(group_norm(hidden, norm, real)) * real
        # Torch's own, channels last on a CPU, is off by some 1e-4 of the result, more or less by how many run at once.
        own = hidden.device.type == "cpu" and (
            torch.compiler.is_compiling() or (is_plain(norm, nn.GroupNorm) and not has_global_hooks())
        )
        return self.activation(group_norm(hidden, norm) if own else norm(hidden))


def convolve_enlarged(features: Tensor, weight: Tensor, size: Sequence[int], real: Tensor | None = None) -> Tensor:
    """`conv2d(interpolate(features, size), weight, padding=1)`, but faster where the size doubles.

    There each cell is copied to 2 x 2 cells, whose 3 x 3 kernels together reach 4 x 4 cells of the result: a transposed
    convolution with stride 2. It needs 16 products per cell and pair of channels instead of 36, and no enlarged copy.

    Args:
        features: `(K, c, h, w)`.
        weight: `(c', c, 3, 3)`.
        size: Height and width of the result. The fast way is taken where each is twice the features', or one less.
        real: `(K, 1, *size)`, False where the enlarged features shall be taken as zero; None if nowhere.

    Returns:
        `(K, c', *size)`.
    """
    doubled = all((new + 1) // 2 == old for new, old in zip(size, features.shape[2:], strict=True))
    if real is not None or is_recorded() or not doubled:  # a graph must not be tied to sizes
        enlarged = functional.interpolate(features, size=tuple(size))
        return functional.conv2d(enlarged if real is None else enlarged * real, weight, padding=1)
    # The kernel of four copies is the sum of four shifts of the kernel.
    spread = functional.avg_pool2d(
        functional.pad(weight.flip(2, 3), (1, 1, 1, 1)), kernel_size=2, stride=1, divisor_override=1
    )
    result = functional.conv_transpose2d(features, spread.transpose(0, 1), stride=2, padding=1)
    result = result[:, :, : size[0], : size[1]]
    for dimension in (2, 3):
        if size[dimension - 2] % 2:  # the last copy was cut off, which the last row (column) must not see
            result.narrow(dimension, -1, 1).copy_(_last_line(features, weight, size, dimension))
    return result


def _last_line(features: Tensor, weight: Tensor, size: Sequence[int], dimension: int) -> Tensor:
    """The last row (dimension 2) or column (3) of `convolve_enlarged`, the plain way, where its side is odd."""
    sources = min(2, features.shape[dimension])
    end = features.narrow(dimension, features.shape[dimension] - sources, sources)
    enlarged = list(size)
    enlarged[dimension - 2] = 2 * sources - 1
    lines = functional.conv2d(functional.interpolate(end, size=tuple(enlarged)), weight, padding=1)
    return lines.narrow(dimension, -1, 1)


def group_norm(features: Tensor, norm: nn.GroupNorm, real: Tensor | None = None) -> Tensor:
    """Group norm of `(K, c, h, w)` by mean and variance of its real cells `(K, 1, h, w)`, bool; None if all are."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))  # sums do not fit into half precision
    channels = wide.shape[1] // norm.num_groups
    cells = wide.shape[2] * wide.shape[3] if real is None else real.sum((2, 3)).to(wide.dtype)[:, :, None]  # (K, 1, 1)

    def mean(values: Tensor) -> Tensor:
        """Mean of each group over its real cells, for each channel: `(K, c, 1, 1)`."""
        sums = (values if real is None else values * real).sum((2, 3)).unflatten(1, (norm.num_groups, -1))
        means = sums.sum(2, keepdim=True) / (cells * channels)
        return means.expand(-1, -1, channels).flatten(1)[:, :, None, None]

    centered = wide - mean(wide)
    scale = (mean(centered.square()) + norm.eps).rsqrt() * norm.weight[:, None, None]
    return torch.addcmul(norm.bias[:, None, None].to(wide.dtype), centered, scale).to(features.dtype)


def only_where_real(masks: Tensor, real: Tensor) -> Tensor:
    """Mask logits `(K, 1, h, w)` with `NO_MASK` where the image has ended.

    The first row and column behind the image repeat its last ones, so that bilinear enlargement of the whole canvas
    gives each pixel of the image what it would get if the image were alone.
    """
    for dimension in (2, 3):
        masks = torch.where(real, masks, masks.roll(1, dimension))
        real = real | real.roll(1, dimension)  # what wraps round meets the image's first cells, which are real
    return masks.masked_fill(~real, NO_MASK)


def confident_queries(logits: Tensor) -> Tensor:
    """Select the queries `(B, Q)`, bool, that can survive the post-processing with a threshold of 0.5 or above.

    Args:
        logits: `(B, Q, C + 1)`, the last column for "no object".
    """
    return logits.float().softmax(-1)[..., :-1].amax(-1) > CONFIDENT


def _of_images(part: Tensor, image: Tensor) -> Tensor:
    """For each query what belongs to its image; a single image's is broadcast and need not be copied."""
    return part if not is_recorded() and len(part) == 1 else part[image]


def _queries_at_once(shared: list[Tensor]) -> int:
    """Number of queries that memory allows; each needs several copies of the largest tensor of `shared`."""
    largest = max(part[0].numel() * part.element_size() for part in shared)
    available = CPU_BYTES
    if shared[0].is_cuda:
        device = shared[0].device
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        available = min(GPU_BYTES, (torch.cuda.mem_get_info(device)[0] + unused) // 2)
    return max(1, available // (LIVE_COPIES * largest))


def _widths(width: int, num_heads: int) -> list[int]:
    """Channels of the mask head's layers 1 to 5."""
    widths = [width + num_heads, width // 2, width // 4, width // 8, width // 16]
    if width % 16 or any(channels % min(8, channels) for channels in widths):
        raise ValueError(
            f"d_model must be divisible by 16, and d_model + heads, d_model / 2, / 4, / 8 and / 16 must be divisible "
            f"by 8 or below 8 for a mask head, got d_model {width} with {num_heads} heads"
        )
    return widths


def _convolution(channels: int, result: int) -> nn.Conv2d:
    return nn.Conv2d(channels, result, kernel_size=3, padding=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(8, channels), channels)
