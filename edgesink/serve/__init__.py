"""`edgesink serve`: OpenAI's HTTP interface over conversations without end.

A request travels `app` -> `guard` (who may ask) -> `chat_api`, `completions_api` or `responses_api` (what is asked) ->
`scheduler` (when it is its turn) -> `answering` (one answer) on a stream that `conversations` found or began.
"""
