"""From chosen kernels to a plan: storage, schedule, memory, checks, and the `.plan` file."""
