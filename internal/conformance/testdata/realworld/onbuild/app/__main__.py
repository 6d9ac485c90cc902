import os; print(open('/name').read().strip(), open('/version').read().strip(), os.getcwd(), os.getuid())
