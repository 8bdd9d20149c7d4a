"""From a plan to accepted records: calls, replies, admission, the books."""
