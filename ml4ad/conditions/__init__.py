"""OMS, Run Registry, golden and DCS JSON: files first, live clients behind the same call."""
