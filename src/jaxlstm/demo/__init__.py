"""`python -m jaxlstm`: a character-level language model, trained with three cells."""
