"""Several clients at once: what each of them waits, and what all of them get.

    edgesink serve qwen.gguf --port 8080 &
    llama-server -m qwen.gguf -c 8192 --parallel 8 --port 8081 &
    python scripts/serve_clients.py --clients 1,4,8 edgesink=http://127.0.0.1:8080/v1 llama.cpp=http://127.0.0.1:8081/v1

Each client has one conversation of some turns, and all begin at once; the servers take turns, so that whatever else the
machine does meets all of them alike. Prints for every server and number of clients the tokens of all answers a second,
and the first token's median and longest wait.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from serve_turns import Talk, open_talk


def hold(talk: Talk, begin: int, turns: int, max_tokens: int) -> None:
    """A conversation; RuntimeError for a turn that the server refused."""
    for number in range(begin, begin + turns):
        if error := talk.say(number, max_tokens).error:
            raise RuntimeError(f"{talk.name}, turn {number}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="+", help="NAME=BASE_URL")
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()
    print("| server | clients | tokens/s, all | first token s, median | longest |\n|---|---|---|---|---|")
    for clients in map(int, options.clients.split(",")):
        speeds: dict[str, list[float]] = {server: [] for server in options.servers}
        waits: dict[str, list[float]] = {server: [] for server in options.servers}
        for _ in range(options.rounds):
            for server in options.servers:
                talks = [open_talk(server, options.api_key) for _ in range(clients)]
                began = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    ends = [
                        pool.submit(hold, talk, 10 * place, options.turns, options.max_tokens)
                        for place, talk in enumerate(talks)
                    ]
                    for end in ends:
                        end.result()
                seconds = time.perf_counter() - began
                turns = [turn for talk in talks for turn in talk.turns]
                speeds[server].append(sum(turn.answer_tokens or 0 for turn in turns) / seconds)
                waits[server] += [turn.first_token_seconds for turn in turns]
        for server in options.servers:
            name, wait = server.partition("=")[0], waits[server]
            speed = statistics.median(speeds[server])
            print(f"| {name} | {clients} | {speed:.1f} | {statistics.median(wait):.2f} | {max(wait):.2f} |", flush=True)


if __name__ == "__main__":
    main()
