"""Classes that evaluation toolkits load to ask a model of ours in their own process."""
