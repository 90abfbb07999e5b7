"""What training minimises: matching and losses (paper, section 3.1), beside the model."""
