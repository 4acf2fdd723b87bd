"""One semantic ID per item: collisions, churn, health."""
