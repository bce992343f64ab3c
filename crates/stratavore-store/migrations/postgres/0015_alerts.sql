-- What is wrong just now, and was told as an event: that it is over is told as well, once. scope is
-- `cluster`, or the id of the node that has the problem.
CREATE TABLE alerts (
    scope     text COLLATE "C" NOT NULL,
    problem   text COLLATE "C" NOT NULL,
    about     text COLLATE "C" NOT NULL,
    severity  text COLLATE "C" NOT NULL,
    words     text NOT NULL,
    raised_at timestamptz NOT NULL,
    PRIMARY KEY (scope, problem, about)
);
