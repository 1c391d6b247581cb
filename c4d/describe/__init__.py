"""What there is to say of methods and models; the description of a model that nobody described, found and proved."""
