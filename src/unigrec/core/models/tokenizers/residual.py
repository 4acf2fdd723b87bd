"""The tokenizer: encoder, codebooks with residual soft quantization, decoder (UniGRec, arXiv 2601.17438, section 3.1).

Shapes: N items, K codewords per level, C code dimension, L levels, D item embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unigrec.core.models.layers import Linear
from unigrec.core.models.tokenizers.kmeans import kmeans, nearest, squared_distances
from unigrec.core.models.vectors import Vectors

ITEMS_AT_ONCE = 2**15  # in a pass over the catalogue that needs no gradients


class SoftCodes(NamedTuple):
    """Residual soft quantization of N latents."""

    logits: Tensor  # (N, L, K) negative squared distance over the temperature, up to a number per item and level
    probabilities: Tensor  # (N, L, K) the soft identifier, softmax of the logits
    quantized: Tensor  # (N, C) sum of the soft codewords

    @property
    def log_probabilities(self) -> Tensor:
        """(N, L, K) log of the soft identifier; finite even where a probability underflows to zero."""
        return self.logits.log_softmax(-1)


class HardCodes(NamedTuple):
    """Residual hard quantization of N latents."""

    codes: Tensor  # (N, L) int64
    quantized: Tensor  # (N, C) sum of the chosen codewords


class Tokenizer(nn.Module):
    """An RQ-VAE without commitment term and without straight-through estimator.

    Args:
        embedding_dim: D, width of the item embeddings.
        code_dim: C, width of latents and codewords.
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        levels: L. codebook_size: K.
    """

    def __init__(self, embedding_dim: int, code_dim: int, hidden: Sequence[int], levels: int, codebook_size: int):
        super().__init__()
        self.encoder = mlp([embedding_dim, *hidden, code_dim])
        self.decoder = mlp([code_dim, *reversed(hidden), embedding_dim])
        self.codebooks = nn.Parameter(torch.empty(levels, codebook_size, code_dim))
        nn.init.normal_(self.codebooks, std=code_dim**-0.5)

    @property
    def embedding_dim(self) -> int:
        first = self.encoder[0]
        assert isinstance(first, nn.Linear)
        return first.in_features

    @property
    def levels(self) -> int:
        return self.codebooks.shape[0]

    @property
    def codebook_size(self) -> int:
        return self.codebooks.shape[1]

    def quantize_soft(self, latent: Tensor, temperature: float) -> SoftCodes:
        """Soft assignment level by level; each residual subtracts the soft codeword. latent: (N, C)."""
        residual, quantized, logits, probabilities = latent, torch.zeros_like(latent), [], []
        for codebook in self.codebooks:  # (K, C)
            squares = codebook.square().sum(-1)  # the residual's own square would add the same to all codewords
            scale = 1.0 / temperature
            logits.append(torch.addmm(squares, residual, codebook.T, beta=-scale, alpha=2.0 * scale))  # (N, K)
            probabilities.append(logits[-1].softmax(-1))
            soft_codeword = probabilities[-1] @ codebook  # (N, C)
            residual = residual - soft_codeword
            quantized = quantized + soft_codeword
        return SoftCodes(torch.stack(logits, dim=1), torch.stack(probabilities, dim=1), quantized)

    def quantize_hard(self, latent: Tensor) -> HardCodes:
        """Nearest codeword level by level; each residual subtracts the chosen codeword itself. latent: (N, C)."""
        residual, quantized, codes = latent, torch.zeros_like(latent), []
        for codebook in self.codebooks:
            code = squared_distances(residual, codebook).argmin(dim=-1)  # (N,)
            residual = residual - codebook[code]
            quantized = quantized + codebook[code]
            codes.append(code)
        return HardCodes(torch.stack(codes, dim=1), quantized)

    @torch.no_grad()
    def latents(self, embeddings: Vectors) -> Tensor:
        """The latents of a whole catalogue, without gradients: (N, D) -> (N, C)."""
        return torch.cat([self.encoder(part) for part in embeddings.split(ITEMS_AT_ONCE)])

    def decode(self, quantized: Tensor) -> Tensor:
        """Reconstructed embeddings: (N, C) -> (N, D)."""
        return self.decoder(quantized)

    @torch.no_grad()
    def initialise(self, embeddings: Vectors, seed: int, iterations: int = 25) -> None:
        """Scale the encoder to the catalogue, then start each codebook from k-means on the residuals, level by level.

        Latents start with a root mean square norm of 1. The temperature divides squared distances, so an encoder with
        much smaller latents would make every assignment uniform. embeddings: (N, D) with N >= K.
        """
        last = self.encoder[-1]
        assert isinstance(last, nn.Linear)
        norm = self.latents(embeddings).square().sum(-1).mean().sqrt()
        last.weight.div_(norm)
        last.bias.div_(norm)
        residual = self.latents(embeddings)
        for level, codebook in enumerate(self.codebooks):
            codebook.copy_(kmeans(residual, self.codebook_size, seed + level, iterations=iterations))
            for part in residual.split(ITEMS_AT_ONCE):
                part -= codebook[nearest(part, codebook)[1]]


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them and none after the last. Xavier weights; biases start at zero."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        linear = Linear(width_in, width_out)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
