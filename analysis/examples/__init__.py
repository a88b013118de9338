"""Three short scripts that use the package; the tests run them."""
