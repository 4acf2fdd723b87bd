"""Fast paths on a CPU: `operators` for single layers, `fused` for sublayers, `blocked` for attention in blocks.

Each is equal to its PyTorch counterpart in values and gradients; tests/core/models/cpu compares them.

The transformer's layer is written three times. A change of one is made in all three:

- `recommender.Layer.forward`, with torch's operators: on a GPU, in double precision, without gradients;
- `recommender.Layer.fused`, with the sublayers of `fused`: training on a CPU;
- `retrieval.decoder_cache.DecoderCache.step`, a decoder position at a time: beam search.

Tests hold the three equal: in tests/core/models, `test_the_model_in_training_equals_the_model_by_torchs_operators` of
cpu/test_fused.py (fused and forward) and test_against_transformers.py (forward and T5, step and T5); in
tests/core/retrieval/test_beam.py, `test_cached_steps_equal_teacher_forcing` (step and forward).
"""
