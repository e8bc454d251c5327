"""Other libraries' training loops: one file a library, which needs that library. Not here: what happens at a step (`sparsity`)."""
