"""Residual soft quantization: hand-computed steps and the soft-to-hard limit."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from support.small import few, plain_tokenizer, small_tokenizer
from unigrec.core.losses import reconstruction_loss
from unigrec.core.models.tokenizers.kmeans import kmeans
from unigrec.core.models.tokenizers.residual import Tokenizer

# One dimension, two levels of two codewords: every number can be checked by hand.
LINE = torch.tensor([[[0.0], [1.0]], [[-0.4], [0.1]]])


def test_soft_assignment_equals_the_hand_computed_one_at_both_levels():
    soft = plain_tokenizer(LINE).quantize_soft(torch.tensor([[0.6]]), temperature=0.5)
    first = torch.softmax(torch.tensor([-0.36, -0.16]) / 0.5, 0)  # squared distances of 0.6 to 0 and 1
    residual = 0.6 - first[1]  # the soft codeword is first[1]
    second = torch.softmax(-torch.stack([(residual + 0.4) ** 2, (residual - 0.1) ** 2]) / 0.5, 0)
    torch.testing.assert_close(soft.probabilities, torch.stack([first, second])[None])
    torch.testing.assert_close(soft.quantized, (first[1] - 0.4 * second[0] + 0.1 * second[1]).view(1, 1))


def test_residual_subtracts_the_soft_codeword_when_soft_and_the_chosen_one_when_hard():
    tokenizer, latent = plain_tokenizer(LINE), torch.tensor([[0.6]])
    soft, hard = tokenizer.quantize_soft(latent, temperature=100.0), tokenizer.quantize_hard(latent)
    assert hard.codes.tolist() == [[1, 0]]  # 0.6 - 1.0 = -0.4, the first codeword of level 2
    assert soft.log_probabilities.argmax(-1).tolist() == [[1, 1]]  # 0.6 - 0.5 = 0.1, the second
    torch.testing.assert_close(hard.quantized, torch.tensor([[0.6]]))


@few
@given(st.integers(0, 10_000))
def test_as_temperature_goes_to_zero_soft_and_hard_agree_in_codes_and_reconstruction(seed: int):
    tokenizer = small_tokenizer(seed=seed).double()
    embeddings = torch.randn(8, 6, dtype=torch.float64)
    latent = tokenizer.encoder(embeddings)
    hard, soft = tokenizer.quantize_hard(latent), tokenizer.quantize_soft(latent, temperature=1e-9)
    assert torch.equal(soft.log_probabilities.argmax(-1), hard.codes)
    torch.testing.assert_close(tokenizer.decode(soft.quantized), tokenizer.decode(hard.quantized))
    one_hot = torch.nn.functional.one_hot(hard.codes, tokenizer.codebook_size).double()
    torch.testing.assert_close(soft.probabilities, one_hot)


def test_distance_between_soft_and_hard_reconstruction_shrinks_with_the_temperature():
    tokenizer = small_tokenizer().double()
    latent = tokenizer.encoder(torch.randn(64, 6, dtype=torch.float64))
    hard = tokenizer.quantize_hard(latent).quantized
    gaps = [
        float((tokenizer.quantize_soft(latent, temperature).quantized - hard).detach().square().mean())
        for temperature in (1.0, 0.1, 0.01, 1e-4, 1e-9)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 1e-2
    assert gaps[-1] < 1e-12


@few
@given(st.integers(0, 10_000), st.sampled_from([0.001, 0.01, 1.0]))
def test_soft_assignments_are_distributions_and_quantized_is_their_expectation(seed: int, temperature: float):
    tokenizer = small_tokenizer(seed=seed)
    soft = tokenizer.quantize_soft(torch.randn(5, 4), temperature)
    torch.testing.assert_close(soft.probabilities.sum(-1), torch.ones(5, 3))
    torch.testing.assert_close(soft.quantized, torch.einsum("nlk,lkc->nc", soft.probabilities, tokenizer.codebooks))


def test_an_item_equal_to_a_sum_of_codewords_is_reconstructed_exactly():
    tokenizer = plain_tokenizer(torch.tensor([[[4.0, 0.0], [0.0, 4.0]], [[0.5, 0.0], [0.0, -0.5]]]))
    latent = torch.tensor([[4.5, 0.0], [0.0, 3.5], [4.0, -0.5]])
    hard = tokenizer.quantize_hard(latent)
    assert hard.codes.tolist() == [[0, 0], [1, 1], [0, 1]]
    assert torch.equal(hard.quantized, latent)


def test_of_equally_near_codewords_soft_and_hard_take_the_first():
    tokenizer = plain_tokenizer(torch.tensor([[[1.0], [1.0], [-1.0]]]))
    latent = torch.zeros(1, 1)
    assert tokenizer.quantize_hard(latent).codes.item() == 0
    assert tokenizer.quantize_soft(latent, 0.001).log_probabilities.argmax(-1).item() == 0


def test_reconstruction_reaches_encoder_and_codewords_through_the_assignments():
    tokenizer, embeddings = small_tokenizer(), torch.randn(16, 6)
    soft = tokenizer.quantize_soft(tokenizer.encoder(embeddings), temperature=0.1)
    reconstruction_loss(tokenizer.decode(soft.quantized), embeddings).mean().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_cold_assignments_of_far_latents_have_finite_gradients():
    tokenizer = small_tokenizer()
    latent = (100 * torch.randn(8, 4)).requires_grad_()
    soft = tokenizer.quantize_soft(latent, temperature=0.001)
    (soft.quantized.square().sum() + soft.probabilities.square().sum()).backward()
    assert torch.isfinite(soft.log_probabilities).all()
    assert torch.isfinite(latent.grad).all()
    assert torch.isfinite(tokenizer.codebooks.grad).all()


def test_decoder_mirrors_the_encoder():
    tokenizer = Tokenizer(768, 32, [512, 256, 128, 64], 3, 8)
    widths = [(layer.in_features, layer.out_features) for layer in tokenizer.encoder if hasattr(layer, "in_features")]
    mirror = [(layer.out_features, layer.in_features) for layer in tokenizer.decoder if hasattr(layer, "in_features")]
    assert widths == [(768, 512), (512, 256), (256, 128), (128, 64), (64, 32)]
    assert mirror[::-1] == widths
    assert isinstance(tokenizer.encoder[-1], torch.nn.Linear)
    assert isinstance(tokenizer.decoder[-1], torch.nn.Linear)


def test_initialise_runs_kmeans_on_the_residuals_of_the_whole_catalogue_level_by_level():
    tokenizer = small_tokenizer(codebook_size=8)
    embeddings = 50 * torch.randn(60, 6)
    tokenizer.initialise(embeddings, seed=5)
    residual = tokenizer.encoder(embeddings).detach()
    torch.testing.assert_close(residual.square().sum(-1).mean(), torch.tensor(1.0))
    errors = [float(residual.square().sum())]
    for level, codebook in enumerate(tokenizer.codebooks.detach()):
        torch.testing.assert_close(codebook, kmeans(residual, 8, seed=5 + level))
        residual = residual - codebook[torch.cdist(residual, codebook).argmin(1)]
        errors.append(float(residual.square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * errors[0]
