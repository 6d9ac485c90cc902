import getpass

from flask import Flask

app = Flask(__name__)


@app.route("/")
def index():
    return {"user": getpass.getuser(), "shop": "open"}


def main():
    print(app.test_client().get("/").get_data(as_text=True))
