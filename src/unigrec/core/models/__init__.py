"""The networks: teacher, tokenizer, recommender, and the unified model of the joint phase."""
