"""The paper's measurements and figures."""
