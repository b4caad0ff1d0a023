"""What users read about a variant: why tiles are skipped, in words, and the mask as a picture."""
