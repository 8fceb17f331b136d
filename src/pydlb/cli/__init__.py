"""The programs that come with pydlb."""
