"""A soak: runs the job on two Ray nodes on this machine and kills something every few seconds."""
