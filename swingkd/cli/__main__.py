from swingkd.cli import app

app()
