package broker

// A pass in its parts, so that a test can do something in between.
var (
	OldBodies    = (*Broker).oldBodies
	DropNamed    = (*Broker).dropNamed
	RemoveBodies = (*Broker).removeBodies

	BodyName   = bodyName
	BodyRecord = (*Broker).bodyRecord
	RenewBody  = (*Broker).renewBody
)
