"""swingkd serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swingkd.cli.common import command, say, show_command

# Addresses that nobody else can reach.
_HERE = ("127.0.0.1", "localhost", "::1")


@command
def serve(
    teacher: Annotated[
        str,
        typer.Option(
            help="Teachers that share no record, as swingkd crossfit writes them; or one that was trained with "
            "differential privacy."
        ),
    ],
    client: Annotated[
        list[str], typer.Option(help="Who may ask; once for each. Those who are not named any more are not let in.")
    ],
    budget: Annotated[
        int, typer.Option(help="How many answers each client may have: one for each predicted token.", min=1)
    ],
    public_model: Annotated[
        str | None, typer.Option(help="The model that the teachers were trained from, where they are whole models.")
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Where tokens, counts and the ledger go.")] = Path("out/served"),
    top_k: Annotated[int, typer.Option(help="Most tokens at a place.", min=1)] = 64,
    max_length: Annotated[
        int | None, typer.Option(help="Longest row, in tokens.  \\[what the teacher reads]", min=2)
    ] = None,
    rate: Annotated[int | None, typer.Option(help="Answers a minute that each client may have.", min=1)] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens that the model reads at once.", min=1)] = 2048,
    host: Annotated[str, typer.Option(help="The address to listen at; others than this machine's need TLS.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="The port.", min=0, max=65535)] = 8000,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM), for https.", exists=True)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).", exists=True)] = None,
) -> None:
    """Let others distil from a teacher that they do not get: it answers over HTTP, and every answer is counted.

    The teachers answer what two of them agree on, each record in the training data of one; so no text that a client
    sends gets a record out. Counts are kept: a client that has used up its budget is refused, also after a restart.

    Examples:

    swingkd serve --teacher out/teachers --client alice --client bob --budget 1000000

    A client then runs, with its token in OPENAI_API_KEY:

    swingkd cache-teacher --teacher http://127.0.0.1:8000/v1 --tokenizer ./tokenizer --data public.jsonl --top-k 20
    """
    from transformers import AutoModelForCausalLM

    from swingkd.files import alone_in
    from swingkd.models.loading import load_pretrained, load_tokenizer
    from swingkd.privacy import PrivacyLedger
    from swingkd.serving import Clients, ServedTeacher, create_app
    from swingkd.trainer.out_of_fold import OutOfFoldTeacher, is_out_of_fold

    if (tls_cert is None) != (tls_key is None):
        raise ValueError("A certificate needs its key: give --tls-cert and --tls-key.")
    if host not in _HERE and tls_cert is None:
        raise ValueError(
            f"At {host} others would see texts and tokens pass by. Give --tls-cert and --tls-key, or leave --host out "
            "and put a server with TLS before this one."
        )
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("To serve a teacher, install swingkd[serve].") from error
    with alone_in(output_dir):
        clients = Clients(output_dir)
        new = clients.admit(client, budget)
        if is_out_of_fold(teacher):
            asked, promised = OutOfFoldTeacher.load(teacher), []
        else:
            asked = load_pretrained(AutoModelForCausalLM, teacher, role="teacher")
            ledger = PrivacyLedger.of_weights(teacher)
            promised = ledger.as_teacher() if ledger is not None else []
        served = ServedTeacher.of(
            asked,
            load_tokenizer(teacher),
            name=Path(teacher).name,
            promised=promised,
            public_model=load_pretrained(AutoModelForCausalLM, public_model, role="public model")
            if public_model
            else None,
        )
        app = create_app(served, clients, top_k=top_k, rate=rate, max_length=max_length, batch_tokens=batch_tokens)
        clients.ledger(served.promised).save(output_dir)
        for path in new:
            say(f"{path} holds the token of {path.name}. Hand it over, then delete the file.")
        for one in clients.admitted():
            say(f"{one.name} may have {one.left:,} of {one.budget:,} answers.")
        where = f"{'https' if tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/v1"
        say(f"The teacher answers at {where} until Ctrl-C. A client asks it with:")
        show_command("cache-teacher", "--teacher", where, "--tokenizer", "TOKENIZER", "--data", "DATA")
        try:
            uvicorn.run(
                app,
                host=host,
                port=port,
                ssl_certfile=tls_cert,
                ssl_keyfile=tls_key,
                # Who asks and when is nobody's business; what, even less.
                access_log=False,
                ws="none",
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=30,
            )
        finally:
            clients.ledger(served.promised).save(output_dir)
    say(f"Stopped. What was asked stays counted in {output_dir}.")
