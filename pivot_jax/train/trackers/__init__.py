"""Copies of a run's log in TensorBoard, Weights & Biases, MLflow and trackio; none of them can stop the run."""
